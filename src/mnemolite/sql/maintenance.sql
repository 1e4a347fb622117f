-- name: clock
SELECT now() AS now

-- name: spaces
SELECT id FROM embedding_spaces WHERE status <> 'dropping' ORDER BY id

-- name: changes
SELECT operation, source, step, rows_copied, rows_total FROM relayouts ORDER BY started_at, source
