-- name: settle
SELECT f.home <> feed_home() OR coalesce(
        (SELECT max(xid) FROM event_changes) >= pg_snapshot_xmax(pg_current_snapshot()), false)
    AS foreign
FROM feed f

-- name: lock
SELECT FROM feed FOR UPDATE

-- name: clear
DELETE FROM event_changes

-- name: begin_epoch
UPDATE feed SET home = feed_home(), purged_xid = '0', purged_n = 0,
    epoch = encode(substring(uuid_send(gen_random_uuid()) FROM 1 FOR 4), 'hex')

-- name: look
WITH horizon AS MATERIALIZED (
    -- The oldest transaction that may still tell of a change; those in other databases cannot.
    SELECT coalesce(min(running.xid), pg_snapshot_xmax(pg_current_snapshot())) AS xid
    FROM pg_snapshot_xip(pg_current_snapshot()) AS running (xid)
    WHERE NOT EXISTS (
        SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock'
          AND l.transactionid = running.xid::xid
          AND a.datid <> (SELECT oid FROM pg_database WHERE datname = current_database())))
SELECT f.epoch, f.purged_xid::text, f.purged_n, h.xid::text AS horizon_xid,
    (SELECT c.at FROM event_changes c
        WHERE (c.xid, c.n) > (%(xid)s::xid8, %(n)s) AND c.xid < h.xid
        ORDER BY c.xid, c.n LIMIT 1) AS ready_at,
    (SELECT c.at FROM event_changes c WHERE c.xid >= h.xid ORDER BY c.xid, c.n LIMIT 1) AS held_at,
    stop.xid::text AS stop_xid, stop.n AS stop_n, last.xid::text AS last_xid, last.n AS last_n
FROM feed f CROSS JOIN horizon h LEFT JOIN LATERAL (
    SELECT c.xid, c.n FROM event_changes c
    WHERE (c.xid, c.n) > (%(xid)s::xid8, %(n)s) AND c.xid < h.xid
    ORDER BY c.xid, c.n OFFSET %(limit)s - 1 LIMIT 1) AS stop ON true
LEFT JOIN LATERAL (
    SELECT c.xid, c.n FROM event_changes c
    WHERE (c.xid, c.n) > (%(xid)s::xid8, %(n)s) AND c.xid < h.xid
    ORDER BY c.xid DESC, c.n DESC LIMIT 1) AS last ON true

-- name: read
WITH told AS (
    SELECT c.xid, c.n, c.kind, c.at, c.event_id, c.namespace, c.timestamp, e.session,
        e.created_at, e.content, e.metadata, e.text,
        coalesce(pg_column_size(e.content) + pg_column_size(e.metadata), 0) AS bytes
    FROM (
        SELECT * FROM event_changes
        WHERE (xid, n) > (%(xid)s::xid8, %(n)s) AND (xid, n) <= (%(stop_xid)s::xid8, %(stop_n)s)
        ORDER BY xid, n LIMIT %(limit)s) AS c
    LEFT JOIN events e ON c.kind <> 'deleted'
        AND (e.id, e.timestamp, e.namespace) = (c.event_id, c.timestamp, c.namespace)
    WHERE (%(namespace)s::text IS NULL OR c.namespace = %(namespace)s)
      AND c.kind = ANY (%(kinds)s)
      AND (c.kind = 'deleted' OR e.id IS NOT NULL
          AND (%(session)s::text IS NULL OR e.session = %(session)s) AND {where})),
sized AS (
    SELECT *, count(*) OVER () AS total,
        sum(bytes) OVER (ORDER BY xid, n ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
    FROM told)
SELECT t.xid::text, t.n, t.kind, t.at, t.event_id, t.namespace, t.timestamp, t.session,
    t.created_at, t.content::text, t.metadata::text, t.text, t.total,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (t.event_id, t.timestamp, t.namespace)) AS pending
FROM sized t WHERE t.bytes_before < %(bytes)s ORDER BY t.xid, t.n

-- name: since
-- The first transaction whose changes are of that time or later: halve the span until it is one.
WITH RECURSIVE halves (low, high) AS (
    SELECT min(xid)::text::bigint - 1, max(xid)::text::bigint + 1 FROM event_changes
    UNION ALL
    SELECT CASE WHEN early.at < %(at)s THEN (low + high) / 2 ELSE low END,
        CASE WHEN early.at < %(at)s THEN high ELSE (low + high) / 2 END
    FROM halves CROSS JOIN LATERAL (
        SELECT max(at) AS at FROM (
            SELECT at FROM event_changes WHERE xid <= ((low + high) / 2)::text::xid8
            ORDER BY xid DESC, n DESC LIMIT 1) AS last) AS early
    WHERE high - low > 1)
SELECT high AS xid FROM halves ORDER BY high - low LIMIT 1

-- name: purge
WITH oldest AS MATERIALIZED (
    SELECT place, xid, n FROM (
        SELECT ctid AS place, xid, n, at FROM event_changes ORDER BY xid, n LIMIT %(step)s) AS first
    WHERE at < now() - make_interval(secs => %(hours)s * 3600)
      -- What a webhook has not read yet waits for it, however long the workers were away.
      AND NOT EXISTS (
        SELECT FROM webhooks w
        WHERE w.enabled AND w.epoch = (SELECT epoch FROM feed)
          AND (w.xid, w.n) < (first.xid, first.n))),
gone AS (
    DELETE FROM event_changes WHERE ctid = ANY (ARRAY(SELECT place FROM oldest))),
last AS (SELECT xid, n FROM oldest ORDER BY xid DESC, n DESC LIMIT 1)
UPDATE feed SET purged_xid = last.xid, purged_n = last.n
FROM last RETURNING (SELECT count(*) FROM oldest) AS purged
