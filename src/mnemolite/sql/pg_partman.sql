-- name: installed
SELECT e.extversion AS version, n.nspname AS schema,
    has_schema_privilege(n.oid, 'USAGE') AND (
        SELECT bool_and(has_table_privilege(quote_ident(n.nspname) || '.part_config', needed))
        FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed) AS usable
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_partman'

-- name: adopt
-- pg_partman's create_parent would make partitions at once, and 4.7 a default partition of its own,
-- which fails where there is one. Names as ours, of the same form in all versions; partitions are
-- made ahead of the clock, not of the newest row; rows in the default partition make none.
INSERT INTO {schema}.part_config (parent_table, control, partition_type, partition_interval, premake,
    datetime_string, infinite_time_partitions, ignore_default_data, automatic_maintenance)
VALUES (%(table)s, 'timestamp', %(type)s, %(interval)s, %(premake)s, 'YYYYMMDD', true, true, 'off')
ON CONFLICT (parent_table) DO UPDATE SET partition_interval = excluded.partition_interval,
    undo_in_progress = false  -- the rest may have been changed on purpose

-- name: release
DELETE FROM {schema}.part_config WHERE parent_table = %(table)s

-- name: config
SELECT partition_interval::interval::text AS interval, premake, retention, datetime_string,
    undo_in_progress
FROM {schema}.part_config WHERE parent_table = %(table)s

-- name: suffix
SELECT to_char(%(start)s::timestamptz, %(form)s) AS suffix

-- name: run
SELECT {schema}.run_maintenance(%(table)s, p_analyze := false)

-- name: home
SELECT n.nspname AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(table)s)
