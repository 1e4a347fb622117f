-- name: next
-- Whether the event that is due longest has failed before, or was left behind by a worker.
SELECT attempts > 0 OR claimed_by IS NOT NULL AS suspect
FROM embedding_queue
WHERE space = %(space)s AND not_before <= now()
ORDER BY not_before, queued_at
LIMIT 1

-- name: claim
-- A claim moves the row out of sight of other workers until the lease ends. To take over what
-- another worker left behind is a try: a text that kills its worker is parked in the end. A claim
-- that a crash of the server undoes is none, so nobody waits for the disk.
WITH due AS MATERIALIZED (
    SELECT event_id, timestamp, namespace, not_before AS due_since,
        claimed_by IS NOT NULL AS abandoned
    FROM embedding_queue
    WHERE space = %(space)s AND not_before <= now()
      AND (%(suspect)s OR (attempts = 0 AND claimed_by IS NULL))
    ORDER BY not_before, queued_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED),
claimed AS (
    UPDATE embedding_queue q
    SET attempts = q.attempts + due.abandoned::integer,
        error = CASE WHEN due.abandoned THEN %(abandoned)s ELSE q.error END,
        claimed_by = CASE WHEN NOT due.abandoned OR q.attempts + 1 < %(max_attempts)s
            THEN %(worker)s::uuid END,
        not_before = CASE WHEN NOT due.abandoned OR q.attempts + 1 < %(max_attempts)s
            THEN now() + make_interval(secs => %(lease)s) ELSE 'infinity' END
    FROM due
    WHERE (q.space, q.event_id, q.timestamp, q.namespace)
        = (%(space)s, due.event_id, due.timestamp, due.namespace)
    RETURNING q.event_id, q.timestamp, q.namespace, q.attempts, q.queued_at, due.due_since,
        due.abandoned, q.claimed_by IS NULL AS parked)
SELECT claimed.event_id, claimed.timestamp, claimed.namespace, claimed.attempts, claimed.due_since,
    claimed.abandoned, claimed.parked, e.text, event_speaker(e.content) AS speaker
FROM claimed
CROSS JOIN set_config('synchronous_commit', 'off', true)
LEFT JOIN events e ON (e.id, e.timestamp, e.namespace)
    = (claimed.event_id, claimed.timestamp, claimed.namespace)
ORDER BY claimed.due_since, claimed.queued_at

-- Statistics of a queue are always out of date. So that none of them leads past the primary key, the
-- statements below write two conditions in ways that the planner cannot weigh: many rows may share a
-- namespace and a time, and claimed_by changes all the time.

-- name: extend
UPDATE embedding_queue q SET not_before = now() + make_interval(secs => %(lease)s)
FROM unnest(%(event_ids)s::uuid[], %(timestamps)s::timestamptz[], %(namespaces)s::text[])
    AS held (event_id, timestamp, namespace)
WHERE (q.space, q.event_id, q.timestamp) = (%(space)s, held.event_id, held.timestamp)
  AND q.namespace IS NOT DISTINCT FROM held.namespace
  AND coalesce(q.claimed_by = %(worker)s, false)

-- name: give_back
-- As if it had never been claimed: it keeps its turn.
UPDATE embedding_queue q SET claimed_by = NULL, not_before = held.due_since
FROM unnest(%(event_ids)s::uuid[], %(timestamps)s::timestamptz[], %(namespaces)s::text[],
        %(due_since)s::timestamptz[])
    AS held (event_id, timestamp, namespace, due_since)
WHERE (q.space, q.event_id, q.timestamp) = (%(space)s, held.event_id, held.timestamp)
  AND q.namespace IS NOT DISTINCT FROM held.namespace
  AND coalesce(q.claimed_by = %(worker)s, false)

-- name: finish
-- Only what the worker still holds: not what was deleted, or taken over after the lease. Until the
-- commit, whoever deletes one of the events waits, and then deletes its vectors as well; a worker
-- that is stopped in between loses the transaction as it would lose the lease.
DELETE FROM embedding_queue q
USING set_config(
        'idle_in_transaction_session_timeout', (%(lease)s * 1000)::integer::text, true),
    unnest(%(event_ids)s::uuid[], %(timestamps)s::timestamptz[], %(namespaces)s::text[])
        AS done (event_id, timestamp, namespace)
WHERE (q.space, q.event_id, q.timestamp) = (%(space)s, done.event_id, done.timestamp)
  AND q.namespace IS NOT DISTINCT FROM done.namespace
  AND coalesce(q.claimed_by = %(worker)s, false)
RETURNING q.event_id, q.timestamp, q.namespace

-- name: clear
DELETE FROM {table} v
USING unnest(%(event_ids)s::uuid[], %(timestamps)s::timestamptz[], %(namespaces)s::text[])
    AS stale (event_id, timestamp, namespace)
WHERE (v.event_id, v.timestamp) = (stale.event_id, stale.timestamp)
  AND v.namespace IS NOT DISTINCT FROM stale.namespace

-- name: store
COPY {table} (event_id, timestamp, passage, namespace, char_start, char_end, embedding)
FROM STDIN (FORMAT BINARY)

-- name: fail
UPDATE embedding_queue
SET attempts = attempts + 1, error = %(error)s, claimed_by = NULL,
    not_before = CASE WHEN attempts + 1 >= %(max_attempts)s THEN 'infinity'
        ELSE now() + make_interval(secs => %(retry_seconds)s * 2 ^ attempts) END
WHERE (space, event_id, timestamp, namespace)
    = (%(space)s, %(event_id)s, %(timestamp)s, %(namespace)s) AND claimed_by = %(worker)s
RETURNING not_before = 'infinity' AS parked

-- name: state
SELECT count(*) AS pending, count(*) FILTER (WHERE not_before = 'infinity') AS parked,
    extract(epoch FROM now() - min(queued_at))::float8 AS oldest_pending_seconds,
    coalesce((array_agg(DISTINCT error) FILTER (WHERE not_before = 'infinity'))[1:10], '{}')
        AS errors
FROM embedding_queue WHERE space = %(space)s

-- name: pending
SELECT count(*) AS events FROM (
    SELECT FROM embedding_queue WHERE space = %(space)s AND not_before < 'infinity'
    ORDER BY not_before LIMIT %(at_most)s) AS counted

-- name: brings_text
SELECT coalesce(bool_or(event_text(content) ~ '\S'), false) AS found
FROM unnest(%(contents)s::jsonb[]) AS content

-- name: retry_parked
UPDATE embedding_queue SET attempts = 0, not_before = now()
WHERE space = %(space)s AND not_before = 'infinity'

-- name: pending_of_ids
SELECT count(*) AS pending FROM embedding_queue
WHERE space = %(space)s AND event_id = ANY (%(ids)s::uuid[]) AND not_before < 'infinity'
