-- name: begin_notes
CREATE TEMP TABLE mnemolite_erased (id uuid PRIMARY KEY)

-- name: note
INSERT INTO mnemolite_erased SELECT unnest(%(ids)s::uuid[]) ON CONFLICT DO NOTHING

-- name: noted
SELECT count(*) AS events FROM mnemolite_erased WHERE id = ANY (%(ids)s::uuid[])

-- name: sample
SELECT e.namespace, e.text, {vector} AS vector
FROM {table} e WHERE {portion} AND NOT {held} AND e.text ~ '\S'
ORDER BY e.timestamp, e.id LIMIT %(limit)s

-- name: vector
(SELECT v.embedding::text FROM {vectors} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace)
    ORDER BY v.passage LIMIT 1)

-- name: no_vector
NULL::text

-- name: id_columns
-- Wherever an id of an event can stand, also in tables that this program knows nothing of.
SELECT c.relname AS "table", a.attname AS "column", a.atttypid = 'uuid[]'::regtype AS many
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid IN ('uuid'::regtype, 'uuid[]'::regtype) AND c.relname <> ALL (%(telling)s::text[])
ORDER BY 1, 2

-- name: ids_left
SELECT count(*) AS rows FROM {table} t WHERE t.{column} IN (SELECT id FROM mnemolite_erased)

-- name: ids_left_in_lists
SELECT count(*) AS rows FROM {table} t
WHERE EXISTS (SELECT FROM unnest(t.{column}) AS one (id) JOIN mnemolite_erased USING (id))

-- name: touched
-- Tables with dead rows of what was erased.
SELECT c.relname AS name FROM pg_class c
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (c.relname = ANY (%(tables)s::text[]) OR c.relname ~ '^embeddings_[0-9]+$')
ORDER BY 1

-- name: vacuum
VACUUM (ANALYZE) {table}
