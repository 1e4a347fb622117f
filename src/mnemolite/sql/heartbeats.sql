-- name: beat
INSERT INTO workers AS w (id, space, host, pid, last_success_at, behind_since, claimed,
    events_per_second)
VALUES (%(id)s, %(space)s, %(host)s, %(pid)s, now() - make_interval(secs => %(success_age)s::float8),
    %(behind_since)s::timestamptz, %(claimed)s, %(rate)s)
ON CONFLICT (id) DO UPDATE SET space = EXCLUDED.space, seen_at = now(), ended_at = NULL,
    last_success_at = EXCLUDED.last_success_at, behind_since = EXCLUDED.behind_since,
    claimed = EXCLUDED.claimed, events_per_second = EXCLUDED.events_per_second
RETURNING set_config('synchronous_commit', 'off', true)  -- the next beat makes up for a lost one

-- name: end
UPDATE workers SET seen_at = now(), ended_at = now(), claimed = 0, behind_since = NULL,
    events_per_second = 0
WHERE id = %(id)s

-- name: purge
DELETE FROM workers WHERE seen_at < now() - make_interval(secs => %(kept)s)

-- name: living
SELECT id, space, host, pid, started_at, seen_at, last_success_at, claimed, events_per_second
FROM workers
WHERE ended_at IS NULL AND seen_at > now() - make_interval(secs => %(silent)s)
ORDER BY space, started_at, id
