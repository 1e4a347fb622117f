-- name: prepare
SELECT set_config('mnemolite.adopting', 'on', false), set_config('timezone', 'UTC', false),
    set_config('datestyle', 'ISO', false), set_config('jit', 'off', false)

-- name: take_turn
SELECT pg_try_advisory_lock(%(lock)s) AS mine

-- name: record
SELECT source, label, plan, phase, space, made_space, position, total, started_at, changed_at,
    (SELECT count(*) FROM adopted_events) AS adopted,
    (SELECT count(*) FROM adoption_refusals) AS refused,
    (SELECT count(*) FROM adoption_changes) AS changes
FROM adoptions

-- name: begin
INSERT INTO adoptions (source, label, plan, phase, space, made_space, total)
VALUES (%(source)s, %(label)s, %(plan)s, 'copying', %(space)s, %(made_space)s, %(total)s)

-- name: move
UPDATE adoptions SET phase = %(phase)s, changed_at = now()

-- name: advance
UPDATE adoptions SET position = %(position)s, changed_at = now()

-- name: replan
UPDATE adoptions SET plan = %(plan)s, changed_at = now()

-- name: language_exists
SELECT EXISTS (SELECT FROM pg_ts_config WHERE cfgname = 'mnemo_' || %(language)s) AS found

-- name: mark_adopted
UPDATE embedding_spaces SET filled_at = now() WHERE id = %(space)s

-- name: create_staging
CREATE TEMPORARY TABLE adopting (
    id uuid,
    timestamp timestamptz,
    content jsonb,
    metadata jsonb,
    embedding vector
) ON COMMIT DROP

-- name: stage
COPY adopting ({columns}) FROM STDIN (FORMAT BINARY)

-- name: last_key
SELECT {key} AS key FROM adopting ORDER BY {order} LIMIT 1

-- name: count_staged
SELECT count(*) AS rows FROM adopting

-- name: create_settled
CREATE TEMPORARY TABLE settled (
    LIKE adopting,
    namespace text,
    session text,
    fault text
) ON COMMIT DROP;
CREATE INDEX ON settled (id, timestamp)

-- name: settle
INSERT INTO settled (id, timestamp, content, metadata, embedding, namespace, session, fault)
SELECT a.id, a.timestamp, a.content, a.metadata, a.embedding, a.namespace, a.session, CASE
    WHEN a.timestamp IS NULL THEN 'timestamp: it is null'
    WHEN a.timestamp < '0001-01-01 00:00:00+00' OR a.timestamp >= '10000-01-01 00:00:00+00'
        THEN 'timestamp: it is infinite, or outside of the years 1 to 9999'
    WHEN jsonb_typeof(a.content) IS DISTINCT FROM 'object'
        THEN 'content: it is no JSON object but ' || coalesce(jsonb_typeof(a.content), 'null')
    WHEN jsonb_typeof(a.metadata) <> 'object'
        THEN 'metadata: it is no JSON object but ' || jsonb_typeof(a.metadata)
    WHEN octet_length(event_text(a.content)) > %(max_text_bytes)s
        THEN 'content: its text has more bytes than are searchable: '
            || octet_length(event_text(a.content))
    WHEN length(a.namespace) NOT BETWEEN 1 AND 200
        THEN 'namespace: it has not 1 to 200 characters'
    WHEN length(a.session) > 200 THEN 'session: it has more than 200 characters'
    WHEN a.namespace_type IN ('object', 'array') THEN 'namespace: it is no text'
    WHEN a.session_type IN ('object', 'array') THEN 'session: it is no text'
    WHEN vector_dims(a.embedding) <> %(dimension)s
        THEN 'embedding: it has ' || vector_dims(a.embedding) || ' dimensions'
    WHEN vector_norm(a.embedding) = 0 THEN 'embedding: it is the zero vector'
    WHEN vector_norm(a.embedding) = 'infinity'::float8 THEN 'embedding: it is infinitely long'
    WHEN %(unit)s AND abs(vector_norm(a.embedding) - 1) > 0.001
        THEN 'embedding: it is not of unit length'
    WHEN EXISTS (
        SELECT FROM events e
        WHERE e.id = a.id AND NOT EXISTS (
            SELECT FROM adopted_events m
            WHERE (m.id, m.timestamp, m.namespace) = (e.id, e.timestamp, e.namespace)))
        THEN 'id: an event of that id is here already'
    END
FROM (
    SELECT s.id, s.timestamp, s.content, coalesce(s.metadata, '{{}}') AS metadata, s.embedding,
        coalesce(nullif({namespace} #>> '{{}}', ''), %(namespace)s) AS namespace,
        nullif({session} #>> '{{}}', '') AS session,
        jsonb_typeof({namespace}) AS namespace_type, jsonb_typeof({session}) AS session_type
    FROM adopting s OFFSET 0) AS a

-- name: analyze
ANALYZE settled

-- name: faults
SELECT id::text AS id, timestamp::text AS timestamp, fault FROM settled
WHERE fault IS NOT NULL ORDER BY id, timestamp

-- name: refuse
INSERT INTO adoption_refusals (id, timestamp, reason)
SELECT id, timestamp, fault FROM settled WHERE fault IS NOT NULL
ON CONFLICT (id, timestamp) DO UPDATE SET reason = EXCLUDED.reason

-- name: readmit
DELETE FROM adoption_refusals r
USING unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS k (id, timestamp)
WHERE r.id = k.id AND r.timestamp IS NOT DISTINCT FROM k.timestamp

-- name: refusals
SELECT id::text AS id, timestamp::text AS timestamp, reason FROM adoption_refusals
ORDER BY id, timestamp

-- name: sample
SELECT event_text(content) AS text, event_speaker(content) AS speaker, timestamp,
    embedding::text AS embedding
FROM settled WHERE fault IS NULL AND embedding IS NOT NULL AND event_text(content) ~ '\S'
ORDER BY id, timestamp LIMIT %(limit)s

-- name: remove_stale
WITH stale AS (
    DELETE FROM adopted_events a
    USING unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS k (id, timestamp)
    WHERE (a.id, a.timestamp) = (k.id, k.timestamp)
      AND NOT EXISTS (
        SELECT FROM settled s
        JOIN events e ON (e.id, e.timestamp, e.namespace) = (s.id, s.timestamp, s.namespace)
        WHERE (s.id, s.timestamp, s.namespace) = (a.id, a.timestamp, a.namespace)
          AND s.fault IS NULL AND (s.embedding IS NOT NULL) = a.with_vector
          AND e.session IS NOT DISTINCT FROM s.session AND e.content::text = s.content::text)
    RETURNING a.id, a.timestamp, a.namespace)
DELETE FROM events e USING stale
WHERE (e.id, e.timestamp, e.namespace) = (stale.id, stale.timestamp, stale.namespace)

-- name: update_metadata
UPDATE events e SET metadata = s.metadata
FROM settled s
JOIN adopted_events a ON (a.id, a.timestamp, a.namespace) = (s.id, s.timestamp, s.namespace)
WHERE (e.id, e.timestamp, e.namespace) = (s.id, s.timestamp, s.namespace)
  AND s.fault IS NULL AND e.metadata::text <> s.metadata::text

-- name: remove_vectors
DELETE FROM {table} v USING settled s
WHERE (v.event_id, v.timestamp, v.namespace) = (s.id, s.timestamp, s.namespace)
  AND s.fault IS NULL AND s.embedding IS NOT NULL
  AND (v.passage > 0 OR v.embedding <> s.embedding)

-- name: add_namespaces
INSERT INTO namespaces (name, language)
SELECT DISTINCT s.namespace, ('mnemo_' || %(language)s)::regconfig
FROM settled s WHERE s.fault IS NULL ORDER BY s.namespace
ON CONFLICT DO NOTHING

-- name: insert
WITH fresh AS (
    INSERT INTO events (id, namespace, session, timestamp, content, metadata, language, text)
    SELECT s.id, s.namespace, s.session, s.timestamp, s.content, s.metadata, n.language,
        event_text(s.content)
    FROM settled s JOIN namespaces n ON n.name = s.namespace
    WHERE s.fault IS NULL AND NOT EXISTS (
        SELECT FROM adopted_events a WHERE (a.id, a.timestamp) = (s.id, s.timestamp))
    ORDER BY s.timestamp, s.id
    RETURNING id, timestamp, namespace)
INSERT INTO adopted_events (id, timestamp, namespace, with_vector)
SELECT f.id, f.timestamp, f.namespace, s.embedding IS NOT NULL
FROM fresh f JOIN settled s ON (s.id, s.timestamp) = (f.id, f.timestamp)

-- name: insert_vectors
INSERT INTO {table} (event_id, timestamp, passage, namespace, char_start, char_end, embedding)
SELECT s.id, s.timestamp, 0, s.namespace, 0, length(event_text(s.content)), s.embedding
FROM settled s WHERE s.fault IS NULL AND s.embedding IS NOT NULL
ON CONFLICT DO NOTHING

-- name: unqueue
DELETE FROM embedding_queue q USING settled s
WHERE q.space = %(space)s AND s.fault IS NULL AND s.embedding IS NOT NULL
  AND (q.event_id, q.timestamp, q.namespace) = (s.id, s.timestamp, s.namespace)

-- name: checksums
SELECT count(*) AS rows, count(d.vector) AS vectors,
    coalesce(sum(('x' || encode(substring(d.event FROM 1 FOR 8), 'hex'))::bit(64)::bigint), 0)::text
        AS events_sum,
    coalesce(sum(('x' || encode(substring(d.vector FROM 1 FOR 8), 'hex'))::bit(64)::bigint), 0)::text
        AS vectors_sum
FROM ({digests}) AS d

-- name: digests
SELECT e.id, e.timestamp,
    sha256(uuid_send(e.id) || timestamptz_send(e.timestamp)
        || sha256(convert_to(e.content::text, 'UTF8'))
        || sha256(convert_to(e.metadata::text, 'UTF8'))) AS event,
    {vector} AS vector
FROM adopted_events a
JOIN events e ON (e.id, e.timestamp, e.namespace) = (a.id, a.timestamp, a.namespace)
{vectors}

-- name: vector_digest
sha256(uuid_send(e.id) || timestamptz_send(e.timestamp) || vector_send(v.embedding))

-- name: vectors
LEFT JOIN {table} v ON a.with_vector AND v.passage = 0
    AND (v.event_id, v.timestamp, v.namespace) = (a.id, a.timestamp, a.namespace)

-- name: create_digests
CREATE TEMPORARY TABLE source_digests (id uuid, timestamp timestamptz, event bytea, vector bytea)
ON COMMIT DROP

-- name: copy_digests
COPY source_digests FROM STDIN (FORMAT BINARY)

-- name: differences
SELECT coalesce(theirs.id, ours.id)::text AS id,
    coalesce(theirs.timestamp, ours.timestamp)::text AS timestamp
FROM source_digests theirs
FULL JOIN ({digests}) AS ours ON (ours.id, ours.timestamp) = (theirs.id, theirs.timestamp)
WHERE ours.event IS DISTINCT FROM theirs.event OR ours.vector IS DISTINCT FROM theirs.vector

-- name: set_lock_timeout
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: lock_events
LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE

-- name: watch
CREATE OR REPLACE TRIGGER events_adoption_added AFTER INSERT ON events
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION adoption_note();
CREATE OR REPLACE TRIGGER events_adoption_changed AFTER UPDATE ON events
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION adoption_note();
CREATE OR REPLACE TRIGGER events_adoption_deleted AFTER DELETE ON events
    REFERENCING OLD TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION adoption_note()

-- name: unwatch
DROP TRIGGER IF EXISTS events_adoption_added ON events;
DROP TRIGGER IF EXISTS events_adoption_changed ON events;
DROP TRIGGER IF EXISTS events_adoption_deleted ON events

-- name: changes
SELECT n, id, timestamp FROM adoption_changes ORDER BY n LIMIT %(limit)s

-- name: changed
SELECT k.id::text AS id, k.timestamp::text AS timestamp, e.id IS NULL AS gone,
    e.content::text AS content, CASE
        WHEN a.id IS NULL
            THEN (jsonb_strip_nulls(jsonb_build_object({places})) || e.metadata)::text
        ELSE e.metadata::text END AS metadata,
    {vector} AS embedding
FROM (SELECT DISTINCT id, timestamp, namespace FROM adoption_changes WHERE n = ANY (%(ns)s)) AS k
LEFT JOIN events e ON (e.id, e.timestamp, e.namespace) = (k.id, k.timestamp, k.namespace)
LEFT JOIN adopted_events a ON (a.id, a.timestamp, a.namespace) = (k.id, k.timestamp, k.namespace)
{vectors}
WHERE a.id IS NOT NULL OR %(anywhere)s OR k.namespace = %(namespace)s

-- name: changed_vectors
LEFT JOIN {table} v ON v.passage = 0
    AND (v.event_id, v.timestamp, v.namespace) = (k.id, k.timestamp, k.namespace)

-- name: forget_changes
DELETE FROM adoption_changes WHERE n = ANY (%(ns)s)

-- name: remove_events
WITH part AS (
    DELETE FROM adopted_events a
    USING (SELECT id, timestamp FROM adopted_events LIMIT %(limit)s) AS k
    WHERE (a.id, a.timestamp) = (k.id, k.timestamp)
    RETURNING a.id, a.timestamp, a.namespace),
gone AS (
    DELETE FROM events e USING part
    WHERE (e.id, e.timestamp, e.namespace) = (part.id, part.timestamp, part.namespace))
SELECT count(*) AS rows FROM part

-- name: forget
TRUNCATE adopted_events, adoption_refusals, adoption_changes, adoptions
