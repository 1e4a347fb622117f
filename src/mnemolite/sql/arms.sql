-- name: vector_exact
SELECT near.id::text AS id, near.timestamp::text AS timestamp, min(near.distance) AS distance,
    sum(count(*)) OVER () AS passages
FROM (
    SELECT v.event_id AS id, v.timestamp, v.embedding <=> %(vector)s AS distance
    FROM {table} v {join}
    WHERE v.namespace = %(namespace)s AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
      AND {where}
    ORDER BY distance, v.event_id LIMIT %(passages)s) AS near
GROUP BY near.id, near.timestamp
ORDER BY distance, near.id

-- name: vector_hnsw
SELECT near.id::text AS id, near.timestamp::text AS timestamp,
    min(near.embedding <=> %(vector)s) AS distance, sum(count(*)) OVER () AS passages
FROM ({scans}) AS near
GROUP BY near.id, near.timestamp
ORDER BY distance, near.id

-- name: by_index
(SELECT v.event_id AS id, v.timestamp, v.embedding
    FROM {table} v {join}
    WHERE v.namespace = %(namespace)s AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
      AND {span} AND {where}
    ORDER BY (v.embedding - {centre}::vector)::halfvec({dimension}) <#> %(vector)s::halfvec({dimension})
    LIMIT %(passages)s)

-- name: without_index
(SELECT v.event_id AS id, v.timestamp, v.embedding
    FROM {table} v {join}
    WHERE v.namespace = %(namespace)s AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
      AND {span} AND {where}
    ORDER BY v.embedding <=> %(vector)s LIMIT %(passages)s)

-- name: join_events
JOIN events e ON (e.id, e.timestamp, e.namespace) = (v.event_id, v.timestamp, v.namespace)

-- name: tune_hnsw
-- Sorting is discouraged, or the planner would sort all matching rows instead of reading the index:
-- it takes any filter on metadata for one that few rows pass.
SELECT set_config('hnsw.ef_search', {ef_search}, true),
    set_config('hnsw.iterative_scan', 'strict_order', true),
    set_config('enable_sort', 'off', true)

-- name: tune_exact
-- The planner takes a distance between vectors for a cheap thing, so that it thinks twice before it
-- lets another process help: 43 ms alone and 24 by two, for 58,000 rows of 384 dimensions.
SELECT set_config('parallel_setup_cost', '100', true)

-- name: estimate
SELECT count(*) AS rows
FROM events e TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (0)
WHERE e.namespace = %(namespace)s AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
  AND {where}

-- name: centre
SELECT centre::text AS centre FROM embedding_spaces WHERE id = %(space)s

-- name: text
-- Ids and timestamps are written as text for the best alone: for all it takes as long as the rest.
SELECT best.id::text AS id, best.timestamp::text AS timestamp, best.score
FROM (
    SELECT matching.id, matching.timestamp, {score} AS score
    FROM (
        SELECT e.id, e.timestamp, e.lexemes,
            %(k1)s::float8
                * (1 - %(b)s::float8 + %(b)s::float8 * e.words / %(average_words)s::float8) AS norm
        FROM events e
        WHERE e.namespace = %(namespace)s AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
          AND e.lexemes @@ %(words)s::text::tsquery AND {where}
        LIMIT %(most)s) AS matching
    ORDER BY score DESC, matching.id
    LIMIT %(depth)s) AS best
ORDER BY best.score DESC, best.id

-- name: term_score
CASE WHEN lexemes @@ {term}
    THEN {weight} * (1 - norm / (norm + term_frequency(lexemes, {term}))) ELSE 0 END

-- name: holds_phrases
(SELECT bool_and(e.lexemes @@ phraseto_tsquery(e.language, phrase))
    FROM unnest(%(phrases)s::text[]) AS phrase)

-- name: lacks_excluded
NOT EXISTS (
    SELECT FROM unnest(%(excluded)s::text[]) AS word
    WHERE e.lexemes @@ phraseto_tsquery(e.language, word))
