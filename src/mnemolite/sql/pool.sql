-- name: pool
WITH found AS MATERIALIZED (
    SELECT e.id, e.timestamp, e.session
    FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS f (id, timestamp)
    JOIN events e ON (e.id, e.timestamp, e.namespace) = (f.id, f.timestamp, %(namespace)s)),
near AS MATERIALIZED (
    SELECT found.id, found.timestamp, before.ids AS before, before.timestamps AS before_timestamps,
        after.ids AS after, after.timestamps AS after_timestamps
    FROM found
    CROSS JOIN LATERAL (
        SELECT array_agg(n.id) AS ids, array_agg(n.timestamp) AS timestamps
        FROM ({before}) AS n) AS before
    CROSS JOIN LATERAL (
        SELECT array_agg(n.id) AS ids, array_agg(n.timestamp) AS timestamps
        FROM ({after}) AS n) AS after),
members AS (
    SELECT DISTINCT ON (id) id, timestamp, before, after
    FROM (
        SELECT 0 AS place, id, timestamp, before, after FROM near
        UNION ALL SELECT 1, before[1], before_timestamps[1], NULL, NULL FROM near
        WHERE before IS NOT NULL
        UNION ALL SELECT 1, after[1], after_timestamps[1], NULL, NULL FROM near
        WHERE after IS NOT NULL) AS everybody
    ORDER BY id, place)
SELECT e.id::text AS id, e.timestamp::text AS timestamp, e.words, {passes} AS passes,
    extract(epoch FROM e.timestamp)::float8 AS seconds, {importance} AS importance,
    event_speaker(e.content) AS speaker, members.before::text[] AS before, members.after::text[] AS after,
    {frequencies} AS frequencies, {distance} AS distance
FROM members
JOIN events e ON (e.id, e.timestamp, e.namespace)
    = (members.id, members.timestamp, %(namespace)s)

-- name: distance
(SELECT min(v.embedding <=> %(vector)s) FROM {table} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace))

-- name: no_distance
NULL::float8

-- name: passage
(SELECT ARRAY[v.char_start, v.char_end] FROM {table} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace)
    ORDER BY v.embedding <=> %(vector)s LIMIT 1)

-- name: no_passage
NULL::integer[]

-- name: passes
(e.timestamp >= %(since)s AND e.timestamp < %(until)s AND {where})

-- name: importance
CASE WHEN jsonb_typeof(e.metadata -> 'importance') = 'number'
    THEN greatest(0, least(1, (e.metadata ->> 'importance')::numeric))::float8 END

-- name: no_importance
NULL::float8

-- name: frequencies
ARRAY(
    SELECT CASE WHEN e.lexemes @@ asked.term THEN term_frequency(e.lexemes, asked.term) ELSE 0 END
    FROM unnest(%(terms)s::text[]::tsquery[]) AS asked (term))

-- name: plan_once
-- To plan for tens of partitions takes longer than to read what is looked up by its key, in loops.
SELECT set_config('plan_cache_mode', 'force_generic_plan', true),
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
