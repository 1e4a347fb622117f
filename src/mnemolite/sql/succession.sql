-- name: take_turn
-- Changes of the registry take turns; none waits long for a table, or writers would wait behind it.
SELECT pg_advisory_xact_lock(%(lock)s), set_config('lock_timeout', '3s', true)

-- name: writers
-- Whoever has written to the events, or to a partition of them, holds a lock until the commit.
SELECT DISTINCT l.virtualtransaction AS writer FROM pg_locks l
WHERE l.locktype = 'relation' AND l.granted
  AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.relation = 'events'::regclass OR l.relation IN (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass))

-- name: remember_recipe
UPDATE embedding_spaces SET recipe = %(recipe)s WHERE id = %(space)s

-- name: fill_state
SELECT fill_cursor, filled_at FROM embedding_spaces WHERE id = %(space)s FOR NO KEY UPDATE

-- name: next_events
SELECT count(*) AS events, (array_agg(id ORDER BY id DESC))[1] AS last
FROM (SELECT id FROM events WHERE id > %(cursor)s ORDER BY id LIMIT %(limit)s) AS following

-- name: queue_events
INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
SELECT %(space)s, e.id, e.timestamp, e.namespace FROM events e
WHERE e.id > %(cursor)s AND e.id <= %(last)s AND e.text ~ '\S'
  AND NOT EXISTS (SELECT FROM {table} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace))
ON CONFLICT DO NOTHING

-- name: move_cursor
UPDATE embedding_spaces SET fill_cursor = %(last)s WHERE id = %(space)s

-- name: end_fill
UPDATE embedding_spaces SET filled_at = now() WHERE id = %(space)s

-- name: clock
SELECT now() AS now

-- name: due_before
SELECT count(*) AS due FROM embedding_queue
WHERE space = %(space)s AND not_before < 'infinity' AND queued_at <= %(moment)s

-- name: figures
SELECT (SELECT count(*) FROM {table} WHERE passage = 0) AS embedded,
    (SELECT count(*) FROM embedding_queue WHERE space = %(space)s) AS pending,
    (SELECT count(*) FROM embedding_queue
        WHERE space = %(space)s AND not_before = 'infinity') AS parked,
    (SELECT extract(epoch FROM now() - created_at)::float8 FROM embedding_spaces
        WHERE id = %(space)s) AS seconds

-- name: missing
SELECT count(*) AS events FROM ({missing_events}) AS missing

-- name: queue_missing
INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
SELECT %(space)s, event_id, timestamp, namespace FROM ({missing_events}) AS missing
ON CONFLICT DO NOTHING

-- name: missing_events
SELECT r.event_id, r.timestamp, r.namespace FROM {reference} r
WHERE r.passage = 0
  AND NOT EXISTS (SELECT FROM {table} v WHERE (v.event_id, v.timestamp, v.namespace, v.passage)
    = (r.event_id, r.timestamp, r.namespace, r.passage))
  AND NOT EXISTS (SELECT FROM embedding_queue q WHERE (q.space, q.event_id, q.timestamp, q.namespace)
    = (%(space)s, r.event_id, r.timestamp, r.namespace))

-- name: orphans
SELECT count(*) AS events FROM {table} v
WHERE v.passage = 0 AND NOT EXISTS (
    SELECT FROM events e WHERE (e.id, e.timestamp, e.namespace)
        = (v.event_id, v.timestamp, v.namespace))

-- name: sweep
DELETE FROM {table} v WHERE NOT EXISTS (
    SELECT FROM events e WHERE (e.id, e.timestamp, e.namespace)
        = (v.event_id, v.timestamp, v.namespace))

-- name: behind
SELECT count(*) AS events FROM embedding_queue q
WHERE q.space = %(space)s AND NOT EXISTS (
    SELECT FROM embedding_queue a WHERE (a.space, a.event_id, a.timestamp, a.namespace)
        = (%(active)s, q.event_id, q.timestamp, q.namespace))

-- name: analyze
ANALYZE {table}

-- name: leave
UPDATE embedding_spaces SET status = %(status)s WHERE id = %(space)s AND status = 'active'

-- name: enter
UPDATE embedding_spaces SET status = 'active', activated_at = now() WHERE id = %(space)s

-- name: drop_view
DROP VIEW embedded_events

-- name: announce
SELECT pg_notify(%(channel)s, '')

-- name: begin_drop
UPDATE embedding_spaces SET status = 'dropping' WHERE id = %(space)s

-- name: empty_queue
DELETE FROM embedding_queue WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM embedding_queue WHERE space = %(space)s LIMIT %(limit)s))

-- name: forget
DELETE FROM embedding_spaces WHERE id = %(space)s

-- name: drop
DROP TABLE IF EXISTS {table}

-- name: sample
SELECT event_id, timestamp, namespace FROM (
    SELECT a.event_id, a.timestamp, a.namespace FROM {reference} a TABLESAMPLE BERNOULLI (%(share)s)
    WHERE a.passage = 0
    LIMIT %(limit)s) AS chosen
WHERE EXISTS (SELECT FROM {table} v WHERE (v.event_id, v.timestamp, v.namespace, v.passage)
    = (chosen.event_id, chosen.timestamp, chosen.namespace, 0))

-- name: centre
SELECT coalesce(centre, %(origin)s::vector)::text AS centre FROM embedding_spaces
WHERE id = %(space)s

-- name: nearest
SELECT near.event_id FROM (
    SELECT v.event_id FROM {table} v
    WHERE v.namespace = %(namespace)s
    ORDER BY (v.embedding - {centre}::vector)::halfvec({dimension}) <#> (
        SELECT s.embedding::halfvec({dimension}) FROM {table} s
        WHERE (s.event_id, s.timestamp, s.namespace, s.passage)
            = (%(event_id)s, %(timestamp)s, %(namespace)s, 0))
    LIMIT %(limit)s) AS near
