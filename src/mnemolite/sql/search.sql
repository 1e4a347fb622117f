-- name: hits
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content, e.metadata, e.text,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (e.id, e.timestamp, e.namespace)) AS pending,
    {passage} AS passage
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (found.id, found.timestamp, %(namespace)s)
    AND e.timestamp = ANY (%(timestamps)s::timestamptz[])

-- name: alike
SELECT e.id::text AS id, md5(e.text) AS digest, {likeness} AS likeness
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (found.id, found.timestamp, %(namespace)s)
    AND e.timestamp = ANY (%(timestamps)s::timestamptz[])

-- name: first_vector
(SELECT v.embedding FROM {table} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace)
    ORDER BY v.passage LIMIT 1)

-- name: lexemes
tsvector_to_array(e.lexemes)
