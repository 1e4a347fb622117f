-- name: missing_languages
SELECT DISTINCT language FROM unnest(%(languages)s::text[]) AS language
WHERE NOT EXISTS (SELECT FROM pg_ts_config WHERE cfgname = 'mnemo_' || language)

-- name: add_namespaces
INSERT INTO namespaces (name, language)
SELECT name, ('mnemo_' || language)::regconfig
FROM unnest(%(names)s::text[], %(languages)s::text[]) AS n (name, language) ORDER BY name
ON CONFLICT DO NOTHING

-- name: create
CREATE TEMPORARY TABLE incoming (
    position integer NOT NULL,
    id uuid NOT NULL,
    namespace text NOT NULL,
    session text,
    timestamp timestamptz NOT NULL,
    dated boolean NOT NULL,  -- the source told the timestamp
    created_at timestamptz,
    content jsonb NOT NULL,
    metadata jsonb NOT NULL
) ON COMMIT DROP

-- name: copy
COPY incoming FROM STDIN

-- name: lock_ids
SELECT pg_advisory_xact_lock(hashtextextended(id::text, 0))
FROM (SELECT DISTINCT id FROM incoming WHERE position = ANY (%(positions)s) ORDER BY id) AS ids

-- name: known
SELECT n.position, e.namespace = n.namespace AND e.session IS NOT DISTINCT FROM n.session
    AND e.content = n.content AND (e.timestamp = n.timestamp OR NOT n.dated) AS same
FROM incoming n
JOIN events e ON e.id = n.id
WHERE n.position = ANY (%(positions)s)

-- name: text_sizes
SELECT position, octet_length(event_text(content)) AS bytes
FROM incoming WHERE position = ANY (%(positions)s)

-- name: insert
INSERT INTO events
    (id, namespace, session, timestamp, created_at, content, metadata, language, text)
SELECT n.id, n.namespace, n.session, n.timestamp, coalesce(n.created_at, now()), n.content,
    n.metadata, s.language, event_text(n.content)
FROM incoming n
JOIN namespaces s ON s.name = n.namespace
WHERE n.position <> ALL (%(left_out)s)
ORDER BY n.position
ON CONFLICT DO NOTHING
RETURNING id

-- name: lock_space
SELECT id FROM embedding_spaces WHERE digest = %(digest)s AND status <> 'dropping' FOR SHARE

-- name: copy_vectors
COPY {table} (event_id, timestamp, passage, namespace, char_start, char_end, embedding)
FROM STDIN (FORMAT BINARY)

-- name: unqueue
DELETE FROM embedding_queue WHERE space = %(space)s AND event_id = ANY (%(ids)s)
