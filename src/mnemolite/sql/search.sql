-- name: neighbours
SELECT found.id, before.ids AS before, before.timestamps AS before_timestamps,
    after.ids AS after, after.timestamps AS after_timestamps
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (found.id, found.timestamp, %(namespace)s)
CROSS JOIN LATERAL (
    SELECT array_agg(n.id) AS ids, array_agg(n.timestamp) AS timestamps
    FROM (
        SELECT id, timestamp FROM events
        WHERE namespace = %(namespace)s AND session = e.session
          AND (timestamp, id) < (e.timestamp, e.id)
        ORDER BY timestamp DESC, id DESC LIMIT 2) AS n) AS before
CROSS JOIN LATERAL (
    SELECT array_agg(n.id) AS ids, array_agg(n.timestamp) AS timestamps
    FROM (
        SELECT id, timestamp FROM events
        WHERE namespace = %(namespace)s AND session = e.session
          AND (timestamp, id) > (e.timestamp, e.id)
        ORDER BY timestamp, id LIMIT 2) AS n) AS after
WHERE e.session IS NOT NULL

-- name: pool
SELECT e.id, e.timestamp, e.words, {passes} AS passes,
    ARRAY[{frequencies}]::integer[] AS frequencies,
    %(asked)s::text[] && tsvector_to_array(to_tsvector(e.language, event_speaker(e.content)))
        AS named,
    {distance} AS distance
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (found.id, found.timestamp, %(namespace)s)

-- name: distance
(SELECT min(v.embedding <=> %(vector)s) FROM {table} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace))

-- name: no_distance
NULL::float8

-- name: passes
(e.timestamp >= %(since)s AND e.timestamp < %(until)s AND {where})

-- name: frequency
term_frequency(e.lexemes, {term})

-- name: hits
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content, e.metadata, e.text,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (e.id, e.timestamp, e.namespace)) AS pending,
    {passage} AS passage
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (found.id, found.timestamp, %(namespace)s)

-- name: passage
(SELECT ARRAY[v.char_start, v.char_end] FROM {table} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace)
    ORDER BY v.embedding <=> %(vector)s LIMIT 1)

-- name: no_passage
NULL::integer[]

-- name: pending
SELECT count(*) AS pending FROM (
    SELECT FROM embedding_queue
    WHERE space = %(space)s AND namespace = %(namespace)s LIMIT %(limit)s) AS bounded
