-- name: store_plan
-- As in all statements here, names are of one schema, that of the table.
INSERT INTO partitioning (events_interval, embeddings_interval, premake, retention, manager)
VALUES (%(events_interval)s, %(embeddings_interval)s, %(premake)s, %(retention)s::interval,
    %(manager)s)
ON CONFLICT (one) DO UPDATE SET premake = excluded.premake, retention = excluded.retention,
    manager = excluded.manager

-- name: spaces
SELECT 'embeddings_' || id AS name FROM embedding_spaces WHERE status <> 'dropping' ORDER BY id

-- name: begin
INSERT INTO relayouts (source, operation, step, then_split)
VALUES (%(source)s, %(operation)s, %(step)s, %(then_split)s)
ON CONFLICT (source) DO NOTHING

-- name: unfinished
SELECT source, operation, step, then_split, target, cursor, rows_copied, rows_total, started_at
FROM relayouts ORDER BY source <> 'events', source

-- name: of_source
SELECT source, operation, step, then_split, target, cursor, rows_copied, rows_total, started_at
FROM relayouts WHERE source = %(source)s

-- name: enter
UPDATE relayouts SET step = %(step)s WHERE source = %(source)s

-- name: turn_to_split
UPDATE relayouts SET operation = 'split', step = 'create', target = NULL WHERE source = %(source)s

-- name: settle_target
UPDATE relayouts SET target = %(target)s WHERE source = %(source)s

-- name: settle_rows
UPDATE relayouts SET rows_total = %(rows)s WHERE source = %(source)s

-- name: advance
UPDATE relayouts SET cursor = %(cursor)s, rows_copied = rows_copied + %(rows)s
WHERE source = %(source)s

-- name: end
DELETE FROM relayouts WHERE source = %(source)s

-- name: latest
SELECT max(timestamp) AS latest FROM {table}

-- name: filled
SELECT DISTINCT date_trunc(%(interval)s, timestamp, 'UTC') AS start FROM {table}

-- name: rows
SELECT count(*) AS rows FROM {table}

-- name: many_rows
SELECT EXISTS (SELECT FROM {table} OFFSET %(few)s) AS found

-- name: most_parts
-- Ten statements that look at every partition find room for their locks, one for each table and each
-- of some five indexes.
SELECT least(400, greatest(24, current_setting('max_locks_per_transaction')::integer
    * current_setting('max_connections')::integer / 60)) AS parts

-- name: size
SELECT sum(pg_total_relation_size(t.oid))::bigint AS bytes
FROM (SELECT relid AS oid FROM pg_partition_tree(to_regclass(%(table)s)) WHERE isleaf
    UNION SELECT to_regclass(%(table)s)) AS t

-- name: data_directory
SELECT current_setting('data_directory', true) AS path
WHERE pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') OR (
    SELECT rolsuper FROM pg_roles WHERE rolname = current_user)

-- name: exists
SELECT to_regclass(%(table)s) IS NOT NULL AS found

-- name: snapshot_holders
-- Transactions that go on reading with a snapshot from before: a table that is filled since then
-- would look incomplete to them. Short ones show a snapshot as well, that of their last statement.
SELECT count(*) AS found FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND state LIKE 'idle in transaction%%' AND backend_xmin IS NOT NULL
  AND xact_start < clock_timestamp() - interval '1 second'

-- name: wait_for_locks
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: lock
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE

-- name: lock_view
-- LOCK would take the tables behind the view as well, in the order in which it names them; a change
-- of the owner into itself takes the view alone, and before its tables, as its readers do.
ALTER VIEW {view} OWNER TO {owner}

-- name: create
CREATE TABLE {table} (LIKE {source} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS){form}

-- name: by_range
PARTITION BY RANGE (timestamp)

-- name: with_options
WITH ({options})

-- name: in_tablespace
TABLESPACE {tablespace}

-- name: create_part
CREATE TABLE {part} PARTITION OF {parent} {bound}{form}

-- name: from_to
FOR VALUES FROM ({since}) TO ({until})

-- name: as_default
DEFAULT

-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {part} {bound}

-- name: add_check
ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (timestamp < {bound}) NOT VALID

-- name: validate_check
ALTER TABLE {table} VALIDATE CONSTRAINT {name}

-- name: drop_check
ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}

-- name: add_key
ALTER TABLE {table} ADD CONSTRAINT {name} {definition}

-- name: add_key_of_index
ALTER TABLE {table} ADD CONSTRAINT {name} {kind} USING INDEX {name}

-- name: create_index
CREATE {unique}INDEX {name} ON {table}{body}

-- name: create_index_concurrently
CREATE {unique}INDEX CONCURRENTLY {name} ON {table}{body}

-- name: drop_index_concurrently
DROP INDEX CONCURRENTLY IF EXISTS {name}

-- name: index_state
SELECT x.indisvalid AS is_valid,
    EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u'))
        AS is_key
FROM pg_index x WHERE x.indexrelid = to_regclass(%(name)s)

-- name: index_names
SELECT c.relname AS name FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
WHERE x.indrelid = to_regclass(%(table)s) ORDER BY c.relname

-- name: set_statistics
ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {target}

-- name: set_owner
ALTER TABLE {table} OWNER TO {owner}

-- name: comment
COMMENT ON TABLE {table} IS {text}

-- name: comment_trigger
COMMENT ON TRIGGER {trigger} ON {table} IS {text}

-- name: grant
GRANT {privilege} ON {table} TO {grantee}{option}

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {table}

-- name: enable_trigger
ALTER TABLE {table} {how} TRIGGER {trigger}

-- name: rename
ALTER TABLE {table} RENAME TO {name}

-- name: rename_index
ALTER INDEX {index} RENAME TO {name}

-- name: replace_view
CREATE OR REPLACE VIEW {view}{options} AS {definition}

-- name: drop_published
ALTER PUBLICATION {publication} DROP TABLE {table}

-- name: add_published
ALTER PUBLICATION {publication} ADD TABLE {table}

-- name: create_log
CREATE TABLE {log} ({columns})

-- name: create_note
-- Writes down the keys of rows that are written, so that the copy follows. Whoever may write to the
-- table need not have any right to the log.
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $note$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO {log} ({key}) VALUES ({old});
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND ({old}) IS DISTINCT FROM ({new})) THEN
        INSERT INTO {log} ({key}) VALUES ({new});
    END IF;
    RETURN NULL;
END $note$

-- name: create_note_trigger
CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION {function}()

-- name: create_keep
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $keep$
BEGIN
    RAISE EXCEPTION 'the layout of the table is being changed: it cannot be truncated now'
        USING ERRCODE = 'object_in_use';
END $keep$

-- name: create_keep_trigger
CREATE TRIGGER {trigger} BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: drop_function
DROP FUNCTION IF EXISTS {function}() CASCADE

-- name: drop
DROP TABLE IF EXISTS {table}

-- name: copy
WITH batch AS MATERIALIZED (
    SELECT {columns} FROM {source} WHERE {beyond} ORDER BY {key} LIMIT %(limit)s),
stored AS (INSERT INTO {shadow} ({columns}) SELECT {columns} FROM batch)
SELECT count(*) AS rows, (SELECT to_jsonb(last) FROM (
    SELECT {key} FROM batch ORDER BY {descending} LIMIT 1) AS last) AS last
FROM batch

-- name: beyond
({key}) > ({values})

-- name: take_log
WITH taken AS (
    DELETE FROM {log} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {log} LIMIT %(limit)s))
    RETURNING {key})
SELECT (SELECT count(*) FROM taken) AS rows,
    coalesce((SELECT jsonb_agg(to_jsonb(k)) FROM (SELECT DISTINCT {key} FROM taken) AS k), '[]')
        AS keys

-- name: unsync
DELETE FROM {shadow} s USING jsonb_to_recordset(%(keys)s) AS k ({typed})
WHERE ({of_s}) = ({of_k})

-- name: sync
INSERT INTO {shadow} ({columns})
SELECT {of_source} FROM jsonb_to_recordset(%(keys)s) AS k ({typed})
JOIN {source} s ON ({of_s}) = ({of_k})

-- name: vacuum
VACUUM (ANALYZE) {table}
