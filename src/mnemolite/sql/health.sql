-- name: probe_writes
INSERT INTO write_probe (id, written_at) VALUES (true, now())
ON CONFLICT (id) DO UPDATE SET written_at = EXCLUDED.written_at

-- name: pipeline
-- In seconds before now. What a worker has claimed and not done waits as well, until it is silent
-- for so long that its leases end.
SELECT
    extract(epoch FROM now() - least(
        (SELECT min(not_before) FROM embedding_queue
            WHERE space = %(space)s AND not_before <= now()),
        min(behind_since) FILTER (WHERE living)))::float8 AS waiting_seconds,
    extract(epoch FROM now() - max(last_success_at))::float8 AS success_seconds,
    extract(epoch FROM now() - max(started_at) FILTER (WHERE living))::float8 AS started_seconds,
    count(*) FILTER (WHERE living) AS workers
FROM (
    SELECT behind_since, last_success_at, started_at,
        ended_at IS NULL AND seen_at > now() - make_interval(secs => %(silent)s) AS living
    FROM workers WHERE space = %(space)s) AS known
