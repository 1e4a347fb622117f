-- name: nth_timestamp
SELECT timestamp FROM events WHERE namespace = %(namespace)s
ORDER BY timestamp, id OFFSET %(place)s LIMIT 1

-- name: values_by_share
WITH counted AS MATERIALIZED (
    SELECT pair.key, pair.value, count(*) AS events
    FROM events e CROSS JOIN LATERAL jsonb_each(e.metadata) AS pair
    WHERE e.namespace = %(namespace)s AND pair.key ~ '^[A-Za-z_][A-Za-z0-9_-]*$'
      AND jsonb_typeof(pair.value) IN ('string', 'number', 'boolean')
    GROUP BY pair.key, pair.value)
SELECT target, found.key, found.value, found.events
FROM unnest(%(targets)s::float8[]) WITH ORDINALITY AS wanted (target, position)
CROSS JOIN LATERAL (
    SELECT key, value, events FROM counted
    ORDER BY abs(ln(events / target)), key, value LIMIT 1) AS found
ORDER BY wanted.position

-- name: numeric_bounds
SELECT pair.key, percentile_disc(%(shares)s::float8[]) WITHIN GROUP (ORDER BY pair.value::numeric)
    ::float8[] AS bounds
FROM events e CROSS JOIN LATERAL jsonb_each(e.metadata) AS pair
WHERE e.namespace = %(namespace)s AND pair.key ~ '^[A-Za-z_][A-Za-z0-9_-]*$'
  AND jsonb_typeof(pair.value) = 'number'
GROUP BY pair.key HAVING count(*) = %(events)s
ORDER BY count(DISTINCT pair.value) DESC, pair.key LIMIT 1

-- name: matching
SELECT count(*) AS rows FROM events e
WHERE e.namespace = %(namespace)s AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
  AND (%(session)s::text IS NULL OR e.session = %(session)s) AND {where}
