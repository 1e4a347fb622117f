-- name: begin
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY

-- name: hold
-- Before the snapshot is taken, which the first query does: what moves rows between partitions, or
-- puts another table in the place of this one, would move them out of its sight.
LOCK TABLE ONLY events IN ACCESS SHARE MODE

-- name: revision
SELECT version_num AS revision FROM mnemolite_schema

-- name: namespaces
SELECT n.name, replace(c.cfgname, 'mnemo_', '') AS language
FROM namespaces n
JOIN pg_ts_config c ON c.oid = n.language
WHERE %(namespace)s::text IS NULL OR n.name = %(namespace)s
ORDER BY n.name

-- name: events
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content::text AS content,
    e.metadata::text AS metadata, {vectors} AS vectors
FROM events e
WHERE (%(namespace)s::text IS NULL OR e.namespace = %(namespace)s)
  AND (%(session)s::text IS NULL OR e.session = %(session)s)
  AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
  AND {where}
ORDER BY e.namespace, e.timestamp, e.id

-- name: vectors
(SELECT json_agg(json_build_array(v.char_start, v.char_end, translate(
    encode(substr(vector_send(v.embedding), 5), 'base64'), E'\n', '')) ORDER BY v.passage)::text
 FROM {table} v WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace))

-- name: no_vectors
NULL::text
