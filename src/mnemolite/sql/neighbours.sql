-- name: windows
SELECT h.id::text AS id, before.ids AS before_ids, before.timestamps AS before_timestamps,
    after.ids AS after_ids, after.timestamps AS after_timestamps, {passages} AS passages
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[], %(sessions)s::text[],
        %(starts)s::integer[]) AS h (id, timestamp, session, start)
CROSS JOIN LATERAL (
    SELECT array_agg(n.id) AS ids, array_agg(n.timestamp) AS timestamps
    FROM ({before}) AS n) AS before
CROSS JOIN LATERAL (
    SELECT array_agg(n.id) AS ids, array_agg(n.timestamp) AS timestamps
    FROM ({after}) AS n) AS after

-- name: passages
(SELECT array_agg(ARRAY[v.passage - best.passage, v.char_start, v.char_end] ORDER BY v.passage)
    FROM {table} best
    JOIN {table} v ON (v.event_id, v.timestamp, v.namespace)
            = (best.event_id, best.timestamp, best.namespace)
        AND v.passage BETWEEN best.passage - %(most)s AND best.passage + %(most)s
        AND v.passage <> best.passage
    WHERE (best.event_id, best.timestamp, best.namespace) = (h.id, h.timestamp, %(namespace)s)
      AND best.char_start = h.start)

-- name: no_passages
NULL::integer[]

-- name: events
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content, e.metadata, e.text,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (e.id, e.timestamp, e.namespace)) AS pending
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS near (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (near.id, near.timestamp, %(namespace)s)
