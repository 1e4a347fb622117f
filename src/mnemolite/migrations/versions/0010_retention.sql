-- An event goes when it is older than max_age and not among the last keep_last, as far as they are
-- given, of those in the namespace that the filter matches.
CREATE TABLE retention_rules (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    namespace text,  -- null: each of them
    filter jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(filter) = 'object'),
    max_age interval CHECK (max_age > interval '0'),
    keep_last bigint CHECK (keep_last > 0),
    keep_per text NOT NULL DEFAULT 'namespace' CHECK (keep_per IN ('namespace', 'session')),
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (max_age IS NOT NULL OR keep_last IS NOT NULL)
);

-- What no rule takes, and no partition takes along. A deletion for retention locks this table, so
-- that a hold that is stored holds.
CREATE TABLE retention_holds (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    namespace text,  -- null: each of them
    filter jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(filter) = 'object'),
    reason text,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What went, when and by which rule: nothing of the events but their number. A row that has not
-- finished says how far a partition has come, and whoever has the turn goes on from there.
CREATE TABLE retention_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('partition', 'rule', 'forget')),
    rule text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    events bigint NOT NULL DEFAULT 0,
    step text NOT NULL CHECK (
        step IN ('deleting', 'detached', 'archived', 'emptied', 'done', 'put back')),
    namespace text,
    partition_name text,
    since timestamptz,  -- of the partition; null: no bound
    until timestamptz,  -- of the partition, or the time before which events were old enough
    archive text,  -- the file that they were written to
    kept_as text,  -- the table that they are still in, apart from the memory
    host text,
    error text
);
CREATE INDEX retention_log_unfinished_idx ON retention_log (id) WHERE finished_at IS NULL;
