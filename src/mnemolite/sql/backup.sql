-- name: hold
-- Before there is a snapshot, for the reason of snapshot.sql.
LOCK TABLE events IN ACCESS SHARE MODE

-- name: schema
SELECT n.nspname AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('mnemolite_schema')

-- name: revision
SELECT version_num AS revision FROM mnemolite_schema

-- name: tables
-- Partitions are parts of their table.
SELECT c.relname AS name FROM pg_class c
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition
ORDER BY c.relname

-- name: count
SELECT count(*) AS rows FROM {table}

-- name: spaces
SELECT id, provider, model, dimension, digest, status FROM embedding_spaces ORDER BY id

-- name: indexes
SELECT c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND i.indisvalid ORDER BY c.relname

-- name: searches
SELECT cfgname AS name FROM pg_ts_config
WHERE cfgnamespace = %(schema)s::regnamespace AND cfgname LIKE 'mnemo\_%%' ORDER BY cfgname

-- name: extensions
SELECT extname AS name FROM pg_extension WHERE extname IN ('vector', 'unaccent') ORDER BY extname

-- name: contents
SELECT to_regclass('mnemolite_schema') IS NOT NULL AS ours,
    EXISTS (SELECT FROM pg_class c
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
          AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
        AS any_tables

-- name: has_events
SELECT EXISTS (SELECT FROM events) OR EXISTS (SELECT FROM namespaces) AS found

-- name: others
SELECT count(*) AS others FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
