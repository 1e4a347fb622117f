-- name: settle
SELECT set_config('timezone', 'UTC', false), set_config('application_name', 'mnemolite layout', false)

-- name: take
SELECT pg_try_advisory_lock(%(lock)s) AS mine

-- name: give_back
SELECT pg_advisory_unlock(%(lock)s)

-- name: holder
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND (classid::bigint << 32) + objid::bigint = %(lock)s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: unfinished
SELECT source, operation FROM relayouts ORDER BY started_at, source LIMIT 1
