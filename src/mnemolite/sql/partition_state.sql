-- name: hold
-- What moves rows between partitions waits until this transaction ends, so each is counted once.
LOCK TABLE ONLY {table} IN ACCESS SHARE MODE

-- name: estimate
WITH leaves AS (
    SELECT relid FROM pg_partition_tree(to_regclass('events')) WHERE isleaf
    UNION ALL
    SELECT oid FROM pg_class WHERE oid = to_regclass('events') AND relkind = 'r')
SELECT coalesce(sum(CASE WHEN c.reltuples < 0 THEN pg_stat_get_live_tuples(c.oid)
    ELSE c.reltuples END), 0)::bigint AS events
FROM leaves l JOIN pg_class c ON c.oid = l.relid

-- name: leaf
-- Negative: the table was never analysed, but its changes have been counted.
SELECT (CASE WHEN c.reltuples < 0 THEN pg_stat_get_live_tuples(c.oid)
    ELSE c.reltuples END)::bigint AS rows,
    pg_total_relation_size(c.oid) AS bytes,
    (SELECT i.indisvalid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = c.oid AND x.relname = %(index)s) AS index_valid,
    coalesce(io.heap_blks_hit, 0) + coalesce(io.idx_blks_hit, 0) + coalesce(io.toast_blks_hit, 0)
        AS hits,
    coalesce(io.heap_blks_read, 0) + coalesce(io.idx_blks_read, 0) + coalesce(io.toast_blks_read, 0)
        AS reads
FROM pg_class c LEFT JOIN pg_statio_all_tables io ON io.relid = c.oid
WHERE c.oid = to_regclass(%(name)s)

-- name: count_leaf
SELECT {name} AS name, count(*) AS rows FROM ONLY {table}

-- name: sample
-- By the time that the events themselves tell, for that is what partitions go by.
SELECT count(*) AS sampled,
    count(*) FILTER (WHERE timestamp >= now() - interval '30 days' AND timestamp < now()) AS recent,
    min(timestamp) AS first_timestamp, max(timestamp) AS last_timestamp
FROM events TABLESAMPLE SYSTEM (least(100, 100.0 * %(rows)s / greatest(%(events)s, 1)))
    REPEATABLE (0)

-- name: searches
SELECT count(*) AS searches, count(*) FILTER (
    WHERE query ->> 'since' IS NOT NULL OR query ->> 'until' IS NOT NULL) AS bounded
FROM search_history
