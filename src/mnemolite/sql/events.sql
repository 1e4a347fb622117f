-- name: add_namespaces
INSERT INTO namespaces (name, language)
SELECT name, %(language)s::text::regconfig FROM unnest(%(names)s::text[]) AS name ORDER BY name
ON CONFLICT DO NOTHING

-- name: insert
INSERT INTO events (id, namespace, session, timestamp, content, metadata, language, text)
SELECT n.id, n.namespace, n.session, n.timestamp, n.content, n.metadata, s.language,
    event_text(n.content)
FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[], %(sessions)s::text[],
        %(timestamps)s::timestamptz[], %(contents)s::text[]::jsonb[], %(metadata)s::text[]::jsonb[])
    WITH ORDINALITY AS n (id, namespace, session, timestamp, content, metadata, position)
JOIN namespaces s ON s.name = n.namespace
ORDER BY n.position
ON CONFLICT DO NOTHING
RETURNING id

-- name: lock_ids
SELECT pg_advisory_xact_lock(hashtextextended(id::text, 0))
FROM (SELECT DISTINCT id FROM unnest(%(ids)s::uuid[]) AS id ORDER BY id) AS ids

-- name: existing
SELECT n.position, e.id, e.namespace = n.namespace AND e.session IS NOT DISTINCT FROM n.session
    AND e.content = n.content AND e.timestamp = coalesce(n.timestamp, e.timestamp) AS same
FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[], %(sessions)s::text[],
        %(timestamps)s::timestamptz[], %(contents)s::text[]::jsonb[])
    WITH ORDINALITY AS n (id, namespace, session, timestamp, content, position)
JOIN events e ON e.id = n.id

-- name: by_ids
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content, e.metadata, e.text,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (e.id, e.timestamp, e.namespace)) AS pending
FROM events e
WHERE e.id = ANY (%(ids)s::uuid[]) AND e.timestamp >= %(earliest)s AND e.timestamp < %(latest)s

-- name: page
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content, e.metadata, e.text,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (e.id, e.timestamp, e.namespace)) AS pending
FROM events e
WHERE e.namespace = %(namespace)s
  AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
  AND (%(session)s::text IS NULL OR e.session = %(session)s)
  AND e.timestamp {beyond}= %(after_timestamp)s
  AND (e.timestamp, e.id) {beyond} (%(after_timestamp)s, %(after_id)s::uuid)
  AND {where}
ORDER BY e.timestamp {direction}, e.id {direction}
LIMIT %(limit)s

-- name: update_metadata
UPDATE events SET metadata = %(metadata)s::text::jsonb
WHERE (id, timestamp, namespace) = (%(id)s, %(timestamp)s, %(namespace)s)

-- name: lock
SELECT id, timestamp, namespace, metadata FROM events
WHERE id = %(id)s AND timestamp >= %(earliest)s AND timestamp < %(latest)s
FOR UPDATE

-- name: delete
DELETE FROM events WHERE id = %(id)s AND timestamp >= %(earliest)s AND timestamp < %(latest)s
RETURNING id

-- name: namespaces
SELECT n.name, replace(n.language::text, 'mnemo_', '') AS language, coalesce(e.events, 0) AS events,
    e.first_timestamp, e.last_timestamp
FROM namespaces n
LEFT JOIN (
    SELECT namespace, count(*) AS events, min(timestamp) AS first_timestamp,
        max(timestamp) AS last_timestamp
    FROM events GROUP BY namespace) AS e ON e.namespace = n.name
ORDER BY n.name

-- name: counts
SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM namespaces) AS namespaces,
    pg_database_size(current_database()) AS database_bytes

-- name: language_exists
SELECT EXISTS (SELECT FROM pg_ts_config WHERE cfgname = %(name)s) AS found

-- name: text_sizes
SELECT octet_length(event_text(content)) AS bytes
FROM unnest(%(contents)s::text[]::jsonb[]) WITH ORDINALITY AS n (content, position)
ORDER BY position

-- name: database_facts
SELECT 'PostgreSQL' AS name, current_setting('server_version') AS version
UNION ALL SELECT extname, extversion FROM pg_extension WHERE extname IN ('vector', 'unaccent')
UNION ALL SELECT 'schema', version_num FROM mnemolite_schema
