-- name: prepare
SELECT set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO', false),
    set_config('statement_timeout', '0', false), set_config('jit', 'off', false)

-- name: table
SELECT c.oid::bigint AS number, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
    concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        (SELECT oid FROM pg_database WHERE datname = current_database()), c.oid) AS identity,
    current_setting('server_version_num')::integer AS server_version,
    current_database() AS database,
    to_regclass('mnemolite_schema') IS NOT NULL AS ours
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(table)s)

-- name: columns
SELECT a.attname AS name, t.typname AS type, tn.nspname AS type_schema,
    a.atttypmod AS modifier, a.attnotnull AS not_null, a.attgenerated <> '' AS generated,
    a.atthasdef OR a.attidentity <> '' AS has_default
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE a.attrelid = %(number)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: keys
SELECT ARRAY(
    SELECT a.attname::text FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns
FROM pg_index i
WHERE i.indrelid = %(number)s::bigint::oid AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indnkeyatts

-- name: count
SELECT count(*) AS rows, count({embedding}) AS vectors, min(timestamp)::text AS first,
    max(timestamp)::text AS last
FROM {table}

-- name: first_dimension
SELECT {schema}.vector_dims({embedding}) AS dimension FROM {table}
WHERE {embedding} IS NOT NULL LIMIT 1

-- name: rows
COPY (SELECT {columns} FROM {table} t WHERE {after} ORDER BY {key} LIMIT {limit})
TO STDOUT (FORMAT BINARY)

-- name: rows_of
COPY (
    SELECT {columns} FROM {table} t
    JOIN (SELECT DISTINCT * FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[])
        AS k (id, timestamp)) AS k ON t.id = k.id AND t.timestamp IS NOT DISTINCT FROM k.timestamp)
TO STDOUT (FORMAT BINARY)

-- name: checksums
SELECT count(*) AS rows, count(d.vector) AS vectors,
    coalesce(sum(('x' || encode(substring(d.event FROM 1 FOR 8), 'hex'))::bit(64)::bigint), 0)::text
        AS events_sum,
    coalesce(sum(('x' || encode(substring(d.vector FROM 1 FOR 8), 'hex'))::bit(64)::bigint), 0)::text
        AS vectors_sum
FROM ({digests}) AS d

-- name: digests
SELECT t.id, t.timestamp,
    sha256(uuid_send(t.id) || timestamptz_send(t.timestamp)
        || sha256(convert_to(t.content::jsonb::text, 'UTF8'))
        || sha256(convert_to(coalesce({metadata}, '{{}}')::text, 'UTF8'))) AS event,
    {vector} AS vector
FROM {table} t
LEFT JOIN unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS r (id, timestamp)
    ON r.id = t.id AND r.timestamp IS NOT DISTINCT FROM t.timestamp
WHERE r.id IS NULL

-- name: vector_digest
sha256(uuid_send(t.id) || timestamptz_send(t.timestamp) || {schema}.vector_send({embedding}))

-- name: copy_digests
COPY ({digests}) TO STDOUT (FORMAT BINARY)

-- name: lock
LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE

-- name: lock_out
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE

-- name: partitions
SELECT n.nspname AS schema, c.relname AS name
FROM pg_partition_tree(%(number)s::bigint::oid::regclass) p
JOIN pg_class c ON c.oid = p.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
UNION
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(number)s::bigint::oid

-- name: create_log
CREATE SCHEMA mnemolite_adoption;
CREATE TABLE mnemolite_adoption.changes (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid,
    timestamp timestamptz
);
-- As its owner, so that whoever may write the table needs no rights on the log.
CREATE FUNCTION mnemolite_adoption.note() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        EXECUTE format('INSERT INTO mnemolite_adoption.changes (id, timestamp) '
            'SELECT id, timestamp FROM %s', TG_RELID::regclass);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO mnemolite_adoption.changes (id, timestamp) VALUES (OLD.id, OLD.timestamp);
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE'
        AND (NEW.id, NEW.timestamp) IS DISTINCT FROM (OLD.id, OLD.timestamp)) THEN
        INSERT INTO mnemolite_adoption.changes (id, timestamp) VALUES (NEW.id, NEW.timestamp);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION mnemolite_adoption.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('mnemolite_adoption.replaying', true) = 'on' THEN
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        END IF;
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% has moved to MnemoLite and is no longer written here', TG_RELID::regclass
        USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Write to MnemoLite. mnemolite db adopt --rollback brings the changes back.';
END $$

-- name: log_exists
SELECT to_regclass('mnemolite_adoption.changes') IS NOT NULL AS found

-- name: log_rows
CREATE TRIGGER mnemolite_adoption_note AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION mnemolite_adoption.note()

-- name: log_truncation
CREATE TRIGGER mnemolite_adoption_truncate BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION mnemolite_adoption.note()

-- name: block_rows
CREATE TRIGGER mnemolite_adoption_refuse BEFORE INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION mnemolite_adoption.refuse()

-- name: block_truncation
CREATE TRIGGER mnemolite_adoption_keep BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION mnemolite_adoption.refuse()

-- name: is_blocked
SELECT EXISTS (SELECT FROM pg_trigger
    WHERE tgrelid = %(number)s::bigint::oid AND tgname = 'mnemolite_adoption_refuse') AS found

-- name: remove_traces
DROP SCHEMA IF EXISTS mnemolite_adoption CASCADE

-- name: changes
SELECT n, id::text AS id, timestamp::text AS timestamp FROM mnemolite_adoption.changes
ORDER BY n LIMIT %(limit)s

-- name: count_changes
SELECT count(*) AS rows FROM mnemolite_adoption.changes

-- name: forget_changes
DELETE FROM mnemolite_adoption.changes WHERE n = ANY (%(ns)s)

-- name: replaying
SELECT set_config('mnemolite_adoption.replaying', 'on', true)

-- name: delete
DELETE FROM {table} t USING unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS k (id, timestamp)
WHERE (t.id, t.timestamp) = (k.id, k.timestamp)

-- name: upsert
INSERT INTO {table} ({columns})
SELECT {values}
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[], %(contents)s::text[],
    %(metadata)s::text[], %(embeddings)s::text[]) AS k (id, timestamp, content, metadata, embedding)
ON CONFLICT ({key}) DO UPDATE SET metadata = EXCLUDED.metadata

-- name: upsert_bare
INSERT INTO {table} ({columns})
SELECT {values}
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[], %(contents)s::text[],
    %(metadata)s::text[], %(embeddings)s::text[]) AS k (id, timestamp, content, metadata, embedding)
ON CONFLICT ({key}) DO NOTHING
