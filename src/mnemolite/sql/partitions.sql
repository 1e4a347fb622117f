-- name: leaves
-- Every table that holds rows of a parent; the parent itself if it is a plain table. Rows and pages
-- are as the last vacuum or ANALYZE has left them. An HNSW index counts once it is valid.
SELECT p.parent, c.relname AS name, c.relnamespace::regnamespace::text AS schema,
    pg_get_expr(c.relpartbound, c.oid) AS bound, greatest(c.reltuples, 0)::bigint AS row_estimate,
    c.relpages AS pages, EXISTS (
        SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indisvalid AND x.relname = c.relname || '_hnsw_idx'
    ) AS indexed
FROM unnest(%(parents)s::text[]) AS p (parent)
CROSS JOIN LATERAL (
    SELECT relid FROM pg_partition_tree(to_regclass(p.parent)) WHERE isleaf
    UNION SELECT oid FROM pg_class WHERE oid = to_regclass(p.parent) AND relkind = 'r') AS tree
JOIN pg_class c ON c.oid = tree.relid

-- name: is_partitioned
SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(%(table)s) AND relkind = 'p') AS found

-- name: plan
SELECT events_interval, embeddings_interval, premake, retention::text AS retention, manager,
    enabled_at
FROM partitioning

-- name: plan_kept
SELECT events_interval, embeddings_interval, premake, retention::text AS retention, manager,
    enabled_at
FROM partitioning FOR SHARE

-- name: lock_plan
SELECT FROM partitioning FOR UPDATE

-- name: forget_plan
DELETE FROM partitioning
WHERE NOT EXISTS (SELECT FROM relayouts) AND NOT EXISTS (
    SELECT FROM pg_class c
    WHERE c.relkind = 'p' AND c.relnamespace = (
            SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
      AND (c.relname = 'events' OR EXISTS (
        SELECT FROM embedding_spaces s WHERE c.relname = 'embeddings_' || s.id)))
