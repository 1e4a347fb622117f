-- name: columns
id, provider, model, revision, dimension, query_prefix, document_prefix, pooling, normalisation,
    template, max_tokens, digest, status, created_at, filled_at, activated_at

-- name: active
SELECT {columns} FROM embedding_spaces WHERE status = 'active'

-- name: all
SELECT {columns} FROM embedding_spaces ORDER BY id

-- name: of_digest
SELECT {columns} FROM embedding_spaces WHERE digest = %(digest)s AND status <> 'dropping'

-- name: recipe
SELECT recipe FROM embedding_spaces WHERE id = %(space)s

-- name: searching
SELECT count(*) AS processes FROM pg_locks
WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock' AND objsubid = 2
  AND classid = %(lock)s AND objid = %(space)s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: lock
LOCK TABLE events, embedding_spaces IN SHARE ROW EXCLUSIVE MODE

-- name: has_events
SELECT EXISTS (SELECT FROM events WHERE text ~ '\S') AS found

-- name: drop
DROP TABLE {table} CASCADE

-- name: forget
DELETE FROM embedding_spaces WHERE id = %(space)s

-- name: create
INSERT INTO embedding_spaces (provider, model, revision, dimension, query_prefix, document_prefix,
    pooling, normalisation, template, max_tokens, digest, recipe, status, filled_at, activated_at)
VALUES (%(provider)s, %(model)s, %(revision)s, %(dimension)s, %(query_prefix)s, %(document_prefix)s,
    %(pooling)s, %(normalisation)s, %(template)s, %(max_tokens)s, %(digest)s, %(recipe)s, %(status)s,
    CASE WHEN %(status)s = 'active' THEN now() END, CASE WHEN %(status)s = 'active' THEN now() END)
RETURNING {columns}

-- name: create_table
CREATE TABLE {table} (
    event_id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    passage smallint NOT NULL,
    namespace text NOT NULL,
    char_start integer NOT NULL,  -- of the passage in the event's text
    char_end integer NOT NULL,
    embedding vector({dimension}) NOT NULL,
    PRIMARY KEY (event_id, timestamp, namespace, passage)
){form}

-- name: set_storage
ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE {storage}

-- name: create_time_index
CREATE INDEX {index} ON {table} (namespace, timestamp)

-- name: create_view
CREATE OR REPLACE VIEW embedded_events AS
SELECT e.*, v.passage, v.char_start, v.char_end, v.embedding
FROM events e
JOIN {table} v ON (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace)

-- name: queue_all
INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
SELECT %(space)s, e.id, e.timestamp, e.namespace FROM events e WHERE e.text ~ '\S'
ON CONFLICT DO NOTHING

-- name: count
SELECT count(*) AS rows FROM {table}

-- name: drop_hnsw
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: centre
UPDATE embedding_spaces SET centre = coalesce(
    centre,
    (SELECT avg(v.embedding)
     FROM {table} v TABLESAMPLE SYSTEM (least(100, 100.0 * %(sample)s / greatest(%(rows)s, 1)))
         REPEATABLE (0)),
    %(origin)s::vector)
WHERE id = %(space)s
RETURNING centre::text AS centre

-- name: create_hnsw
CREATE INDEX CONCURRENTLY {index} ON {table}
USING hnsw (((embedding - {centre}::vector)::halfvec({dimension})) halfvec_ip_ops)
WITH (m = 24, ef_construction = 200)
