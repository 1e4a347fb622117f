-- name: claim
-- Claims, and what came of a try, wait for no disk: what a crash of the server undoes is sent again.
UPDATE webhooks
SET claimed_by = %(by)s, claimed_until = now() + make_interval(secs => %(lease)s)
WHERE id = (
    SELECT w.id FROM webhooks w CROSS JOIN feed f
    WHERE w.enabled AND w.claimed_until <= now() AND (
        w.epoch <> f.epoch
        OR (w.xid, w.n) < (SELECT xid, n FROM event_changes ORDER BY xid DESC, n DESC LIMIT 1)
        OR w.not_before <= now() AND now() >= (
            SELECT min(d.not_before) FROM webhook_deliveries d
            WHERE d.webhook = w.id AND d.status = 'pending'))
    ORDER BY w.claimed_until LIMIT 1 FOR UPDATE OF w SKIP LOCKED)
RETURNING id, url, secret, query, epoch, xid::text, n, set_config('synchronous_commit', 'off', true)

-- name: hold
UPDATE webhooks SET claimed_until = now() + make_interval(secs => %(lease)s)
WHERE id = %(webhook)s AND claimed_by = %(by)s AND enabled
RETURNING url, failures, not_before <= now() AS due, set_config('synchronous_commit', 'off', true)

-- name: release
UPDATE webhooks SET claimed_by = NULL, claimed_until = now() + make_interval(secs => %(rest)s)
WHERE id = %(webhook)s AND claimed_by = %(by)s
RETURNING set_config('synchronous_commit', 'off', true)

-- name: move
-- This one waits for the disk: a delivery must keep its id once it has been sent. Whoever has lost the claim moves nothing: somebody else reads on from the old position.
UPDATE webhooks SET epoch = %(epoch)s, xid = %(xid)s::xid8, n = %(n)s,
    gap_at = CASE WHEN %(gap)s THEN now() ELSE gap_at END,
    claimed_until = now() + make_interval(secs => %(lease)s)
WHERE id = %(webhook)s AND claimed_by = %(by)s

-- name: add
INSERT INTO webhook_deliveries
    (id, webhook, cursor, kind, changed_at, event_id, timestamp, namespace)
SELECT n.id, %(webhook)s, n.cursor, n.kind, n.changed_at, n.event_id, n.timestamp, n.namespace
FROM unnest(%(ids)s::uuid[], %(cursors)s::text[], %(kinds)s::text[], %(changed_at)s::timestamptz[],
        %(event_ids)s::uuid[], %(timestamps)s::timestamptz[], %(namespaces)s::text[])
    AS n (id, cursor, kind, changed_at, event_id, timestamp, namespace)

-- name: due
-- Of each event the first change only: what follows waits until that has ended.
WITH first AS MATERIALIZED (
    SELECT d.* FROM webhook_deliveries d
    WHERE d.webhook = %(webhook)s AND d.status = 'pending' AND d.not_before <= now()
      AND NOT EXISTS (
        SELECT FROM webhook_deliveries b
        WHERE b.webhook = d.webhook AND b.event_id = d.event_id AND b.status = 'pending'
          AND (b.created_at, b.id) < (d.created_at, d.id))
    ORDER BY d.created_at, d.id LIMIT %(limit)s),
sized AS (
    SELECT f.id AS delivery, f.created_at AS collected_at, f.cursor, f.kind, f.changed_at,
        f.attempts, f.event_id, f.timestamp, f.namespace, e.session, e.created_at, e.content,
        e.metadata, e.text, coalesce(e.id IS NOT NULL AND {where}, false) AS fits,
        sum(coalesce(pg_column_size(e.content) + pg_column_size(e.metadata), 0))
            OVER (ORDER BY f.created_at, f.id ROWS UNBOUNDED PRECEDING)
            - coalesce(pg_column_size(e.content) + pg_column_size(e.metadata), 0) AS bytes_before
    FROM first f LEFT JOIN events e ON f.kind <> 'deleted'
        AND (e.id, e.timestamp, e.namespace) = (f.event_id, f.timestamp, f.namespace))
SELECT s.delivery, s.cursor, s.kind, s.changed_at, s.attempts, s.event_id, s.timestamp,
    s.namespace, s.session, s.created_at, s.content, s.metadata, s.text, s.fits,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces p ON p.id = q.space
        WHERE p.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (s.event_id, s.timestamp, s.namespace)) AS pending
FROM sized s WHERE s.bytes_before < %(bytes)s ORDER BY s.collected_at, s.delivery

-- name: record
-- What was told is told, whoever has the claim by now.
UPDATE webhook_deliveries d SET status = r.status, attempts = d.attempts + r.tries,
    not_before = now() + make_interval(secs => r.wait_seconds), tried_at = now(),
    ended_at = CASE WHEN r.status <> 'pending' THEN now() END,
    milliseconds = r.milliseconds, response_status = r.response_status, error = r.error
FROM unnest(%(ids)s::uuid[], %(statuses)s::text[], %(tries)s::integer[], %(waits)s::float8[],
        %(milliseconds)s::integer[], %(responses)s::integer[], %(errors)s::text[])
    AS r (id, status, tries, wait_seconds, milliseconds, response_status, error)
WHERE d.id = r.id AND d.status = 'pending'
RETURNING set_config('synchronous_commit', 'off', true)

-- name: tell
UPDATE webhooks SET failures = %(failures)s,
    not_before = now() + make_interval(secs => %(pause)s),
    last_success_at = CASE WHEN %(succeeded)s THEN now() ELSE last_success_at END,
    last_failure_at = CASE WHEN %(error)s::text IS NULL THEN last_failure_at ELSE now() END,
    last_error = coalesce(%(error)s, last_error),
    enabled = enabled AND NOT %(gone)s,
    disabled_reason = CASE WHEN %(gone)s THEN 'The target answered 410 Gone.'
        ELSE disabled_reason END
WHERE id = %(webhook)s

-- name: page
SELECT d.id, d.cursor, d.kind, d.changed_at, d.event_id, d.namespace, d.timestamp, d.status,
    d.attempts, d.created_at, CASE WHEN d.status = 'pending' THEN d.not_before END
        AS next_attempt_at, d.tried_at, d.ended_at, d.milliseconds, d.response_status, d.error
FROM webhook_deliveries d
WHERE d.webhook = %(webhook)s AND (%(status)s::text IS NULL OR d.status = %(status)s)
  AND (d.created_at, d.id) < (%(before)s, %(before_id)s::uuid)
ORDER BY d.created_at DESC, d.id DESC LIMIT %(limit)s

-- name: retry
WITH again AS (
    UPDATE webhook_deliveries SET status = 'pending', attempts = 0, not_before = now(),
        ended_at = NULL
    WHERE webhook = %(webhook)s AND status = 'dead'
      AND (%(delivery)s::uuid IS NULL OR id = %(delivery)s)
    RETURNING id),
woken AS (
    UPDATE webhooks SET not_before = now(), failures = 0
    WHERE id = %(webhook)s AND EXISTS (SELECT FROM again))
SELECT count(*) AS retried FROM again

-- name: purge
DELETE FROM webhook_deliveries WHERE id = ANY (ARRAY(
    SELECT id FROM webhook_deliveries
    WHERE ended_at < now() - make_interval(days => least(%(log_days)s, %(dead_days)s))
      AND ended_at < now() - make_interval(
        days => CASE status WHEN 'dead' THEN %(dead_days)s ELSE %(log_days)s END)
    ORDER BY ended_at LIMIT %(step)s))
