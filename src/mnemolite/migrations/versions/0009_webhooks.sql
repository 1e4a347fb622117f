-- Targets that are told of changes. Each is a reader of the feed: what lies behind its position
-- becomes deliveries, in the transaction that moves the position on.
CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    url text NOT NULL,
    secret text NOT NULL,
    query jsonb NOT NULL,  -- namespace, all_namespaces, session, kinds, where
    epoch text NOT NULL,
    xid xid8 NOT NULL,
    n bigint NOT NULL,
    gap_at timestamptz,  -- when changes had been lost before they were read
    enabled boolean NOT NULL DEFAULT true,
    disabled_reason text,
    claimed_by uuid,  -- whoever delivers; until claimed_until nobody else may
    claimed_until timestamptz NOT NULL DEFAULT now(),
    not_before timestamptz NOT NULL DEFAULT now(),  -- the target is left alone until then
    failures integer NOT NULL DEFAULT 0,  -- rounds of requests since the last success
    last_success_at timestamptz,
    last_failure_at timestamptz,
    last_error text
) WITH (fillfactor = 50);

-- What is told, or was: a change by its place and the id of its event, nothing of what that holds.
CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY,
    webhook uuid NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    cursor text NOT NULL,  -- the place of the change in the feed
    kind text NOT NULL,
    changed_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    namespace text NOT NULL,
    status text NOT NULL DEFAULT 'pending',  -- pending, delivered, skipped or dead
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz,
    ended_at timestamptz,
    milliseconds integer,  -- of the last try
    response_status integer,
    error text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);
-- (created_at, id) is the order of the changes: one transaction after the other makes the rows.
CREATE INDEX webhook_deliveries_order_idx ON webhook_deliveries (webhook, created_at, id);
CREATE INDEX webhook_deliveries_pending_idx ON webhook_deliveries (webhook, created_at, id)
    WHERE status = 'pending';
CREATE INDEX webhook_deliveries_event_idx
    ON webhook_deliveries (webhook, event_id, created_at, id) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_due_idx ON webhook_deliveries (webhook, not_before)
    WHERE status = 'pending';
CREATE INDEX webhook_deliveries_dead_idx ON webhook_deliveries (webhook, created_at, id)
    WHERE status = 'dead';
CREATE INDEX webhook_deliveries_ended_idx ON webhook_deliveries (ended_at);
