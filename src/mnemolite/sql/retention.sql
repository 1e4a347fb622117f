-- name: rules
SELECT name, namespace, filter AS "where", extract(year FROM max_age)::integer * 12
        + extract(month FROM max_age)::integer AS months,
    extract(day FROM max_age)::integer AS days, extract(hour FROM max_age)::integer AS hours,
    keep_last, keep_per, enabled
FROM retention_rules ORDER BY name

-- name: add_rule
INSERT INTO retention_rules (name, namespace, filter, max_age, keep_last, keep_per, enabled)
VALUES (%(name)s, %(namespace)s, %(filter)s::jsonb, %(max_age)s::interval, %(keep_last)s,
    %(keep_per)s, %(enabled)s)
ON CONFLICT DO NOTHING

-- name: remove_rule
DELETE FROM retention_rules WHERE name = %(name)s

-- name: holds
SELECT name, namespace, filter AS "where", reason FROM retention_holds ORDER BY name

-- name: add_hold
INSERT INTO retention_holds (name, namespace, filter, reason)
VALUES (%(name)s, %(namespace)s, %(filter)s::jsonb, %(reason)s)
ON CONFLICT DO NOTHING

-- name: remove_hold
DELETE FROM retention_holds WHERE name = %(name)s

-- name: keep_holds
-- Until the transaction ends, none is added or taken away.
LOCK TABLE retention_holds IN SHARE MODE

-- name: take_time
-- A filter that matches little reads much until it has found a batch.
SELECT set_config('statement_timeout', '0', true)

-- name: due
-- Whether there is anything that a worker should look at.
SELECT EXISTS (SELECT FROM retention_rules WHERE enabled)
    OR EXISTS (SELECT FROM partitioning WHERE retention IS NOT NULL)
    OR EXISTS (SELECT FROM retention_log WHERE finished_at IS NULL AND kind = 'partition') AS due

-- name: before
SELECT now() - %(age)s::interval AS moment

-- name: entries
SELECT id, kind, rule, started_at, finished_at, events, step, namespace, partition_name, since,
    until, archive, kept_as, host, error
FROM retention_log WHERE NOT %(unfinished)s OR (finished_at IS NULL AND kind = 'partition')
ORDER BY id DESC LIMIT %(limit)s

-- name: begin
INSERT INTO retention_log (kind, rule, step, namespace, partition_name, since, until, archive,
    kept_as, host)
VALUES (%(kind)s, %(rule)s, %(step)s, %(namespace)s, %(partition_name)s, %(since)s, %(until)s,
    %(archive)s, %(kept_as)s, %(host)s)
RETURNING id

-- name: resume
-- The line of the same rule, if a crash has left it open.
SELECT id FROM retention_log
WHERE finished_at IS NULL AND (kind, rule) = (%(kind)s, %(rule)s)
  AND namespace IS NOT DISTINCT FROM %(namespace)s
ORDER BY id DESC LIMIT 1

-- name: add_events
UPDATE retention_log SET events = events + %(events)s WHERE id = %(id)s

-- name: advance
UPDATE retention_log SET step = %(step)s, error = %(error)s,
    events = coalesce(%(events)s, events),
    finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END
WHERE id = %(id)s

-- name: discard
DELETE FROM retention_log WHERE id = %(id)s AND events = 0

-- name: kept_tables
SELECT DISTINCT kept_as AS name FROM retention_log
WHERE finished_at IS NOT NULL AND step = 'done' AND to_regclass(quote_ident(kept_as)) IS NOT NULL
ORDER BY name

-- name: archives
SELECT DISTINCT archive FROM retention_log
WHERE kind = 'partition' AND archive IS NOT NULL AND step <> 'put back'
  AND coalesce(since, '-infinity') < %(until)s AND coalesce(until, 'infinity') > %(since)s
ORDER BY archive

-- name: table_exists
SELECT to_regclass(quote_ident(%(table)s)) IS NOT NULL AS found

-- name: archive_taken
SELECT EXISTS (SELECT FROM retention_log WHERE archive = %(archive)s AND step <> 'put back') AS found

-- name: namespaces
-- From one to the next by the index, whatever each of them holds.
WITH RECURSIVE found AS (
    (SELECT namespace FROM {table} ORDER BY namespace LIMIT 1)
    UNION ALL
    SELECT (SELECT e.namespace FROM {table} e WHERE e.namespace > found.namespace
        ORDER BY e.namespace LIMIT 1)
    FROM found WHERE found.namespace IS NOT NULL)
SELECT namespace FROM found WHERE namespace IS NOT NULL

-- name: sessions
WITH RECURSIVE found AS (
    (SELECT session FROM events WHERE namespace = %(namespace)s AND session IS NOT NULL
        ORDER BY session LIMIT 1)
    UNION ALL
    SELECT (SELECT e.session FROM events e
        WHERE e.namespace = %(namespace)s AND e.session > found.session ORDER BY e.session LIMIT 1)
    FROM found WHERE found.session IS NOT NULL)
SELECT session FROM found WHERE session IS NOT NULL

-- name: first_kept
-- The oldest of the newest; no row: there are not more than these.
SELECT e.timestamp, e.id FROM events e
WHERE e.namespace = %(namespace)s AND (%(session)s::text IS NULL OR e.session = %(session)s)
  AND {where}
ORDER BY e.timestamp DESC, e.id DESC OFFSET %(keep_last)s - 1 LIMIT 1

-- name: portion
e.namespace = %(namespace)s AND (%(session)s::text IS NULL OR e.session = %(session)s)
  AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
  AND (e.timestamp, e.id) < (%(before_timestamp)s, %(before_id)s::uuid) AND {where}

-- name: count
SELECT count(*) AS events, count(*) FILTER (WHERE {held}) AS held FROM {table} e WHERE {portion}

-- name: count_held
SELECT count(*) AS events, count(*) FILTER (WHERE {held}) AS held FROM {table} e

-- name: held_by
SELECT EXISTS (SELECT FROM {table} e WHERE {portion} AND {held}) AS found

-- name: batch
SELECT e.id, e.timestamp FROM {table} e
WHERE {portion} AND (e.timestamp, e.id) > (%(after_timestamp)s, %(after_id)s::uuid) AND NOT {held}
ORDER BY e.timestamp, e.id LIMIT %(limit)s
FOR UPDATE

-- name: delete
DELETE FROM {table} e USING unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[])
    AS gone (id, timestamp)
WHERE (e.id, e.timestamp, e.namespace) = (gone.id, gone.timestamp, %(namespace)s)
  AND e.timestamp >= %(first)s AND e.timestamp <= %(last)s

-- name: drop_unused_words
-- What no event has any more; a word can be a name.
DELETE FROM lexicon WHERE documents = 0
