-- name: lock
SELECT pg_try_advisory_xact_lock(%(key)s) AS mine

-- name: count
WITH taken AS MATERIALIZED (
    DELETE FROM lexicon_queue WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM lexicon_queue LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
    RETURNING event_id, timestamp, namespace, lexemes, words),
changed AS MATERIALIZED (
    SELECT t.namespace, -1 AS sign, t.lexemes, t.words FROM taken t WHERE t.lexemes IS NOT NULL
    UNION ALL
    SELECT t.namespace, 1, e.lexemes, e.words
    FROM taken t
    JOIN events e ON (e.id, e.timestamp, e.namespace) = (t.event_id, t.timestamp, t.namespace)
    WHERE t.lexemes IS NULL),
counted AS (
    INSERT INTO lexicon AS l (namespace, lexeme, documents)
    SELECT namespace, lexeme, sum(sign)
    FROM changed, unnest(tsvector_to_array(lexemes)) AS lexeme
    GROUP BY namespace, lexeme ORDER BY namespace, lexeme
    ON CONFLICT (namespace, lexeme) DO UPDATE SET documents = l.documents + excluded.documents),
totals AS (
    INSERT INTO lexicon_totals AS l (namespace, documents, words)
    SELECT namespace, sum(sign), sum(sign * words) FROM changed GROUP BY namespace
    ORDER BY namespace
    ON CONFLICT (namespace) DO UPDATE
    SET documents = l.documents + excluded.documents, words = l.words + excluded.words)
SELECT count(*) AS events FROM taken

-- name: question
SELECT n.language::text AS language, (
        SELECT count(*) FROM (
            SELECT FROM embedding_queue q
            WHERE q.space = %(space)s AND q.namespace = n.name LIMIT %(pending_limit)s) AS bounded
    ) AS pending, coalesce(t.documents, 0) AS documents,
    coalesce(t.words, 0) AS words,
    coalesce((
        SELECT jsonb_object_agg(asked, coalesce(l.documents, 0))
        FROM unnest(tsvector_to_array(text_lexemes(n.language, %(q)s))) AS asked
        LEFT JOIN lexicon l ON (l.namespace, l.lexeme) = (n.name, asked)), '{}') AS lexemes
FROM namespaces n LEFT JOIN lexicon_totals t ON t.namespace = n.name
WHERE n.name = %(namespace)s
