-- name: add
INSERT INTO webhooks (id, url, secret, query, epoch, xid, n)
VALUES (%(id)s, %(url)s, %(secret)s, %(query)s::text::jsonb, %(epoch)s, %(xid)s::xid8, %(n)s)

-- name: read
SELECT w.id, w.url, w.query, w.created_at, w.enabled, w.disabled_reason, w.epoch,
    w.xid::text, w.n, w.gap_at, w.failures, nullif(greatest(w.not_before, now()), now())
        AS paused_until, w.last_success_at, w.last_failure_at, w.last_error,
    (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook = w.id AND d.status = 'pending')
        AS pending,
    (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook = w.id AND d.status = 'dead')
        AS dead
FROM webhooks w WHERE %(id)s::uuid IS NULL OR w.id = %(id)s
ORDER BY w.id

-- name: change
-- Enabling forgets old failures: whoever does it believes that the target is well.
UPDATE webhooks SET url = coalesce(%(url)s, url),
    enabled = coalesce(%(enabled)s, enabled),
    disabled_reason = CASE WHEN %(enabled)s::boolean IS NULL THEN disabled_reason END,
    not_before = CASE WHEN %(enabled)s::boolean THEN now() ELSE not_before END,
    failures = CASE WHEN %(enabled)s::boolean THEN 0 ELSE failures END
WHERE id = %(id)s

-- name: remove
DELETE FROM webhooks WHERE id = %(id)s

-- name: state
SELECT (SELECT count(*) FROM webhooks WHERE enabled) AS enabled,
    (SELECT count(*) FROM webhooks WHERE NOT enabled) AS disabled,
    (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending') AS pending,
    (SELECT count(*) FROM webhook_deliveries WHERE status = 'dead') AS dead,
    (SELECT extract(epoch FROM now() - min(created_at))::float8 FROM webhook_deliveries
        WHERE status = 'pending') AS oldest_pending_seconds
