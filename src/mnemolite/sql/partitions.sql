-- name: leaves
-- Every table that holds rows of a parent, oldest first; the parent itself if it is a plain table.
SELECT c.relname AS name, c.relnamespace::regnamespace::text AS schema,
    pg_get_expr(c.relpartbound, c.oid) AS bound, greatest(c.reltuples, 0)::bigint AS row_estimate
FROM pg_partition_tree(to_regclass(%(parent)s)) AS tree
JOIN pg_class c ON c.oid = tree.relid
WHERE tree.isleaf
UNION ALL
SELECT c.relname, c.relnamespace::regnamespace::text, NULL, greatest(c.reltuples, 0)::bigint
FROM pg_class c WHERE c.oid = to_regclass(%(parent)s) AND c.relkind = 'r' AND NOT c.relispartition

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
