-- name: be_patient
-- Whoever wants the events waits behind us for no longer than this.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)

-- name: hold_count
-- The lexicon is counted by nobody else until the transaction ends.
SELECT pg_advisory_xact_lock(%(key)s)

-- name: detach
ALTER TABLE {parent} DETACH PARTITION {partition}

-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES FROM ({since}) TO ({until})

-- name: count_rest
-- Count what of the partition the lexicon has not counted yet: from now on all of it is.
WITH taken AS MATERIALIZED (
    DELETE FROM lexicon_queue
    WHERE lexemes IS NULL AND timestamp >= %(since)s AND timestamp < %(until)s
    RETURNING event_id, timestamp, namespace),
come AS MATERIALIZED (
    SELECT e.namespace, e.lexemes, e.words
    FROM taken t
    JOIN {partition} e ON (e.id, e.timestamp, e.namespace) = (t.event_id, t.timestamp, t.namespace)),
counted AS (
    INSERT INTO lexicon AS l (namespace, lexeme, documents)
    SELECT namespace, lexeme, count(*) FROM come, unnest(tsvector_to_array(lexemes)) AS lexeme
    GROUP BY namespace, lexeme ORDER BY namespace, lexeme
    ON CONFLICT (namespace, lexeme) DO UPDATE SET documents = l.documents + excluded.documents)
INSERT INTO lexicon_totals AS l (namespace, documents, words)
SELECT namespace, count(*), sum(words) FROM come GROUP BY namespace ORDER BY namespace
ON CONFLICT (namespace) DO UPDATE
SET documents = l.documents + excluded.documents, words = l.words + excluded.words

-- name: move_back
-- What has come meanwhile lies in the default partition. An event that was sent again is there
-- already: it counts once.
WITH moved AS (
    DELETE FROM {default} WHERE timestamp >= %(since)s AND timestamp < %(until)s
    RETURNING id, namespace, session, timestamp, created_at, content, metadata, language, text,
        lexemes, words),
stored AS (
    INSERT INTO {partition} (id, namespace, session, timestamp, created_at, content, metadata,
        language, text)
    SELECT id, namespace, session, timestamp, created_at, content, metadata, language, text
    FROM moved ON CONFLICT DO NOTHING
    RETURNING id, timestamp, namespace)
INSERT INTO lexicon_queue (event_id, timestamp, namespace, lexemes, words)
SELECT m.id, m.timestamp, m.namespace, m.lexemes, m.words FROM moved m
WHERE NOT EXISTS (
    SELECT FROM stored s WHERE (s.id, s.timestamp, s.namespace) = (m.id, m.timestamp, m.namespace))

-- name: queue_again
-- Workers have taken events that they did not find for deleted ones.
INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
SELECT %(space)s, e.id, e.timestamp, e.namespace FROM {partition} e
WHERE e.text ~ '\S' AND NOT EXISTS (
    SELECT FROM {vectors} v
    WHERE (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace))
ON CONFLICT DO NOTHING

-- name: unqueue
-- From here on no worker writes a vector of these events; one that is at it is waited for.
DELETE FROM embedding_queue q
WHERE q.timestamp >= %(since)s AND q.timestamp < %(until)s AND EXISTS (
    SELECT FROM {partition} e
    WHERE (e.id, e.timestamp, e.namespace) = (q.event_id, q.timestamp, q.namespace))

-- name: spaces
SELECT id, 'embeddings_' || id AS vectors, status FROM embedding_spaces
WHERE to_regclass('embeddings_' || id) IS NOT NULL ORDER BY id

-- name: lock_vectors
LOCK TABLE {vectors} IN ACCESS EXCLUSIVE MODE

-- name: any_events
SELECT EXISTS (SELECT FROM events WHERE timestamp >= %(since)s AND timestamp < %(until)s) AS found

-- name: drop
DROP TABLE {table}

-- name: set_aside
ALTER TABLE {table} RENAME TO {kept}

-- name: delete_vectors
WITH gone AS MATERIALIZED (
    SELECT id, timestamp, namespace FROM {partition}
    WHERE (id, timestamp, namespace) > (%(id)s::uuid, %(timestamp)s, %(namespace)s)
    ORDER BY id, timestamp, namespace LIMIT %(limit)s),
deleted AS (
    DELETE FROM {vectors} v USING gone g
    WHERE (v.event_id, v.timestamp, v.namespace) = (g.id, g.timestamp, g.namespace)
      AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
      AND NOT EXISTS (
        SELECT FROM events e
        WHERE (e.id, e.timestamp, e.namespace) = (g.id, g.timestamp, g.namespace)
          AND e.timestamp >= %(since)s AND e.timestamp < %(until)s))
SELECT id, timestamp, namespace FROM gone ORDER BY id DESC, timestamp DESC, namespace DESC LIMIT 1

-- name: blank_keys
-- As the trigger does it, read the other way round: keys are kept for hours only, so they are few.
UPDATE idempotency_keys k SET digest = NULL, event_ids = '{{}}', pending = '{{}}'
WHERE EXISTS (SELECT FROM unnest(k.event_ids) AS answer (id) JOIN {partition} e ON e.id = answer.id)

-- name: tell
INSERT INTO event_changes (kind, event_id, timestamp, namespace)
SELECT 'deleted', id, timestamp, namespace FROM {partition} ORDER BY timestamp, id

-- name: events
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content::text AS content,
    e.metadata::text AS metadata, NULL::text AS vectors
FROM {partition} e ORDER BY e.namespace, e.timestamp, e.id

-- name: languages
SELECT n.name, replace(c.cfgname, 'mnemo_', '') AS language
FROM namespaces n JOIN pg_ts_config c ON c.oid = n.language
WHERE n.name IN (SELECT DISTINCT namespace FROM {partition}) ORDER BY n.name
