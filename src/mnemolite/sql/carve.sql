-- name: columns
-- What is copied; generated columns are made anew.
SELECT attname AS name FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND attgenerated = '' AND NOT attisdropped
ORDER BY attnum

-- name: key
SELECT a.attname AS name FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
WHERE i.indrelid = to_regclass(%(table)s) AND i.indisprimary AND a.attnum = ANY (i.indkey)
ORDER BY a.attnum

-- name: exists
SELECT to_regclass(%(name)s) IS NOT NULL AS found

-- name: patience
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: create
CREATE TABLE {new} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED
    INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING STATISTICS INCLUDING COMMENTS
    INCLUDING INDEXES)

-- name: take
-- A copy with the place and version of each row, so that it can be told later which have changed.
CREATE TEMPORARY TABLE carved ON COMMIT DROP AS
SELECT ctid AS carved_place, xmin AS carved_version, {columns} FROM ONLY {default_partition}
WHERE timestamp >= {since} AND timestamp < {until}

-- name: fill
INSERT INTO {new} ({columns}) SELECT {columns} FROM carved

-- name: lock
LOCK TABLE ONLY {parent} IN ACCESS EXCLUSIVE MODE

-- name: remove_changed
DELETE FROM {new} n USING carved c
WHERE ({new_key}) = ({carved_key}) AND NOT EXISTS (
    SELECT FROM ONLY {default_partition} d
    WHERE d.ctid = c.carved_place AND d.xmin = c.carved_version)

-- name: add_changed
INSERT INTO {new} ({columns})
SELECT {columns} FROM ONLY {default_partition} d
WHERE d.timestamp >= {since} AND d.timestamp < {until} AND NOT EXISTS (
    SELECT FROM carved c WHERE c.carved_place = d.ctid AND c.carved_version = d.xmin)

-- name: clear
DELETE FROM ONLY {default_partition} WHERE timestamp >= {since} AND timestamp < {until}

-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {new} FOR VALUES FROM ({since}) TO ({until})

-- name: analyze
ANALYZE {new}, {default_partition}

-- name: count
SELECT count(*) AS rows FROM (
    SELECT FROM ONLY {default_partition} WHERE timestamp >= {since} AND timestamp < {until}
    LIMIT {at_most}) AS counted

-- name: spread
-- The rows of a default partition by the intervals that they belong to.
SELECT date_trunc({interval}, timestamp) AS start, count(*) AS rows, min(timestamp) AS first,
    max(timestamp) AS last
FROM ONLY {default_partition} GROUP BY 1 ORDER BY 1
