-- name: answer
SELECT digest, event_ids, pending, created FROM idempotency_answer(%(namespace)s, %(key)s)

-- name: record
INSERT INTO idempotency_keys (namespace, key, digest, event_ids, pending, created, expires_at)
VALUES (%(namespace)s, %(key)s, %(digest)s, %(event_ids)s, %(pending)s, %(created)s,
    now() + make_interval(hours => %(hours)s))
ON CONFLICT (namespace, key) DO UPDATE SET digest = excluded.digest,
    event_ids = excluded.event_ids, pending = excluded.pending, created = excluded.created,
    created_at = excluded.created_at, expires_at = excluded.expires_at

-- name: purge
DELETE FROM idempotency_keys WHERE (namespace, key) IN (
    SELECT namespace, key FROM idempotency_keys WHERE expires_at <= now()
    ORDER BY expires_at LIMIT %(step)s FOR UPDATE SKIP LOCKED)
