-- name: table
SELECT n.nspname AS schema, c.relkind = 'p' AS is_partitioned, quote_ident(r.rolname) AS owner,
    r.rolname = current_user AS is_own, obj_description(c.oid, 'pg_class') AS comment,
    (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace) AS tablespace,
    -- A partitioned table has no storage of its own, and so no options.
    (SELECT array_to_string(leaf.reloptions, ', ') FROM pg_partition_tree(c.oid) AS tree
        JOIN pg_class leaf ON leaf.oid = tree.relid WHERE tree.isleaf AND leaf.reloptions IS NOT NULL
        ORDER BY leaf.oid LIMIT 1) AS leaf_options,
    array_to_string(c.reloptions, ', ') AS options
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_roles r ON r.oid = c.relowner
WHERE c.oid = to_regclass(%(table)s)

-- name: columns
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attgenerated <> '' AS is_generated, nullif(a.attstattarget, -1) AS statistics
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: key
SELECT a.attname AS name
FROM pg_index x
CROSS JOIN unnest(x.indkey::smallint[]) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
WHERE x.indrelid = to_regclass(%(table)s) AND x.indisprimary
ORDER BY k.position

-- name: indexes
SELECT c.relname AS name, x.indisunique AS is_unique, x.indisprimary AS is_primary,
    pg_get_constraintdef(k.oid) AS "constraint",
    substring(pg_get_indexdef(x.indexrelid) FROM ' USING .*') AS body
FROM pg_index x
JOIN pg_class c ON c.oid = x.indexrelid
JOIN pg_am m ON m.oid = c.relam
LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid
    AND k.contype IN ('p', 'u')
WHERE x.indrelid = to_regclass(%(table)s) AND m.amname NOT IN ('hnsw', 'ivfflat')
ORDER BY x.indisprimary DESC, c.relname

-- name: vector_index
-- How the vectors are indexed, on whichever of the tables that hold them.
SELECT substring(pg_get_indexdef(x.indexrelid) FROM ' USING .*') AS body
FROM (SELECT relid FROM pg_partition_tree(to_regclass(%(table)s)) WHERE isleaf
    UNION SELECT to_regclass(%(table)s)) AS tree
JOIN pg_index x ON x.indrelid = tree.relid
JOIN pg_class c ON c.oid = x.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE m.amname = 'hnsw' AND x.indisvalid AND c.relname LIKE '%%\_hnsw\_idx'
ORDER BY x.indexrelid LIMIT 1

-- name: triggers
SELECT t.tgname AS name, pg_get_triggerdef(t.oid) AS definition, t.tgenabled::text AS enabled,
    obj_description(t.oid, 'pg_trigger') AS comment
FROM pg_trigger t
WHERE t.tgrelid = to_regclass(%(table)s) AND NOT t.tgisinternal
  AND t.tgname NOT LIKE '%%\_relayout\_note' AND t.tgname NOT LIKE '%%\_relayout\_keep'
ORDER BY t.tgname

-- name: views
SELECT DISTINCT n.nspname AS schema, c.relname AS name, pg_get_viewdef(c.oid) AS definition,
    array_to_string(c.reloptions, ', ') AS options, quote_ident(pg_get_userbyid(c.relowner)) AS owner
FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid
JOIN pg_class c ON c.oid = r.ev_class
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = to_regclass(%(table)s) AND c.oid <> to_regclass(%(table)s) AND c.relkind = 'v'
ORDER BY n.nspname, c.relname

-- name: grants
SELECT a.privilege_type AS privilege, NULL::text AS "column", a.is_grantable,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
FROM pg_class c, aclexplode(c.relacl) AS a
WHERE c.oid = to_regclass(%(table)s) AND a.grantee <> c.relowner
UNION ALL
SELECT a.privilege_type, t.attname, a.is_grantable,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_attribute t, aclexplode(t.attacl) AS a
WHERE t.attrelid = to_regclass(%(table)s) AND NOT t.attisdropped
ORDER BY 4, 1, 2

-- name: publications
SELECT p.pubname AS name
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
WHERE r.prrelid = to_regclass(%(table)s) ORDER BY p.pubname

-- name: obstacles
-- What stands on a table, or on a partition of it, and would neither go over to a table that takes
-- its place nor be told that it has changed. Whatever is not known to be handled is an obstacle.
WITH whole (oid) AS (SELECT to_regclass(%(table)s)::oid),
tree (oid, is_whole) AS (
    SELECT oid, true FROM whole
    UNION SELECT t.relid, false FROM whole, pg_partition_tree(whole.oid) AS t
    WHERE t.relid <> whole.oid),
dependent AS (
    SELECT DISTINCT d.classid, d.objid, tree.oid AS relid, tree.is_whole
    FROM tree
    JOIN pg_class c ON c.oid = tree.oid
    JOIN pg_depend d ON (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
        OR (d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype)
    WHERE d.deptype IN ('n', 'a')),
handled AS (
    SELECT d.classid, d.objid FROM dependent d JOIN pg_class c ON c.oid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND (c.relispartition OR c.relkind IN ('i', 'I', 't'))
    UNION ALL
    SELECT d.classid, d.objid FROM dependent d JOIN pg_constraint k ON k.oid = d.objid
    WHERE d.classid = 'pg_constraint'::regclass AND k.conrelid IN (SELECT oid FROM tree)
      AND k.contype IN ('p', 'u', 'c', 'n', 't') AND NOT k.condeferrable
    UNION ALL
    SELECT d.classid, d.objid FROM dependent d JOIN pg_trigger t ON t.oid = d.objid
    WHERE d.classid = 'pg_trigger'::regclass AND t.tgrelid = d.relid
      AND (d.is_whole OR t.tgparentid <> 0)
      AND NOT (t.tgtype & 1 = 1 AND coalesce(t.tgoldtable, t.tgnewtable) IS NOT NULL)
    UNION ALL
    SELECT d.classid, d.objid FROM dependent d JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class v ON v.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass AND v.relkind = 'v' AND d.is_whole
    UNION ALL
    SELECT d.classid, d.objid FROM dependent d JOIN pg_attrdef f ON f.oid = d.objid
    WHERE d.classid = 'pg_attrdef'::regclass AND f.adrelid IN (SELECT oid FROM tree)
    UNION ALL
    SELECT d.classid, d.objid FROM dependent d JOIN pg_publication_rel r ON r.oid = d.objid
    JOIN pg_publication p ON p.oid = r.prpubid
    WHERE d.classid = 'pg_publication_rel'::regclass AND d.is_whole AND p.pubviaroot
      AND r.prqual IS NULL AND r.prattrs IS NULL)
SELECT pg_describe_object(d.classid, d.objid, 0) AS name,
    CASE d.classid WHEN 'pg_publication_rel'::regclass
        THEN 'It must publish whole tables by their root: ALTER PUBLICATION ... SET '
            '(publish_via_partition_root = true), without a filter or a list of columns.'
        ELSE 'Drop it, and make it again afterwards.' END AS remedy
FROM dependent d
WHERE NOT EXISTS (SELECT FROM handled h WHERE (h.classid, h.objid) = (d.classid, d.objid))
UNION
SELECT 'publication ' || p.pubname, 'It would publish the copy as well: name its tables instead.'
FROM pg_publication p WHERE p.puballtables OR EXISTS (
    SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid
        = (SELECT c.relnamespace FROM pg_class c JOIN whole USING (oid)))
UNION
SELECT 'index ' || x.indexrelid::regclass, CASE WHEN NOT x.indisvalid
        THEN 'It is not valid: REINDEX INDEX CONCURRENTLY or drop it.'
        WHEN NOT tree.is_whole THEN 'Only this partition has it: drop it.'
        ELSE 'A unique index of a partitioned table must hold timestamp, and an index of vectors '
            'is named ..._hnsw_idx: drop it.' END
FROM tree
JOIN pg_index x ON x.indrelid = tree.oid
JOIN pg_class c ON c.oid = x.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE c.relname NOT LIKE '%%\_hnsw\_idx' AND (
    NOT x.indisvalid OR m.amname IN ('hnsw', 'ivfflat') OR x.indisexclusion
    OR (NOT tree.is_whole AND NOT c.relispartition)
    OR (x.indisunique AND NOT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attname = 'timestamp'
            AND a.attnum = ANY (x.indkey::smallint[]))))
UNION
SELECT what, 'Take that back, and do it again afterwards.'
FROM whole JOIN pg_class c USING (oid) CROSS JOIN LATERAL (VALUES
    ('the row security of ' || c.relname, c.relrowsecurity),
    ('the replica identity of ' || c.relname, c.relreplident <> 'd'),
    ('the inheritance of ' || c.relname, NOT c.relispartition AND EXISTS (
        SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid))) AS wrong (what, found)
WHERE found
ORDER BY 1
