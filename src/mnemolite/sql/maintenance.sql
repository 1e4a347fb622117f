-- name: clock
SELECT now() AS now

-- name: spaces
SELECT id FROM embedding_spaces WHERE status <> 'dropping' ORDER BY id

-- name: has_changes
SELECT to_regclass('relayouts') IS NOT NULL AS found

-- name: changes
-- As JSON, for the columns are another module's.
SELECT to_jsonb(r) AS change FROM relayouts r
