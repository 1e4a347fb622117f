-- name: vector_exact
SELECT v.event_id AS id, v.timestamp, min(v.embedding <=> %(vector)s) AS distance
FROM {table} v {join}
WHERE v.namespace = %(namespace)s AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
  AND {where}
GROUP BY v.event_id, v.timestamp
ORDER BY distance, v.event_id
LIMIT %(candidates)s

-- name: vector_hnsw
SELECT near.id, near.timestamp, min(near.embedding <=> %(vector)s) AS distance
FROM (
    SELECT v.event_id AS id, v.timestamp, v.embedding
    FROM {table} v {join}
    WHERE v.namespace = %(namespace)s AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
      AND {where}
    ORDER BY v.embedding::halfvec({dimension}) <=> %(vector)s::halfvec({dimension})
    LIMIT %(candidates)s) AS near
GROUP BY near.id, near.timestamp
ORDER BY distance, near.id

-- name: join_events
JOIN events e ON (e.id, e.timestamp, e.namespace) = (v.event_id, v.timestamp, v.namespace)

-- name: tune_hnsw
SELECT set_config('hnsw.ef_search', %(ef_search)s::text, true),
    set_config('hnsw.iterative_scan', 'strict_order', true)

-- name: estimate
SELECT count(*) AS rows FROM (
    SELECT FROM events e
    WHERE e.namespace = %(namespace)s AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
      AND {where}
    LIMIT %(limit)s) AS bounded

-- name: index_ready
SELECT EXISTS (
    SELECT FROM pg_index WHERE indexrelid = to_regclass(%(index)s) AND indisvalid) AS ready

-- name: words
SELECT string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')
    ::tsquery::text AS any_word
FROM namespaces n, unnest(tsvector_to_array(event_lexemes(n.language, %(q)s))) AS lexeme
WHERE n.name = %(namespace)s

-- name: text
SELECT e.id, e.timestamp, ts_rank_cd(e.lexemes, %(any_word)s::text::tsquery) AS score
FROM events e
WHERE e.namespace = %(namespace)s AND e.timestamp >= %(since)s AND e.timestamp < %(until)s
  AND e.lexemes @@ %(any_word)s::text::tsquery AND {where}
ORDER BY score DESC, e.id
LIMIT %(candidates)s

-- name: hits
SELECT e.id, e.namespace, e.session, e.timestamp, e.created_at, e.content, e.metadata, e.text,
    EXISTS (
        SELECT FROM embedding_queue q JOIN embedding_spaces s ON s.id = q.space
        WHERE s.status = 'active' AND (q.event_id, q.timestamp, q.namespace)
            = (e.id, e.timestamp, e.namespace)) AS pending
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN events e ON (e.id, e.timestamp, e.namespace) = (found.id, found.timestamp, %(namespace)s)

-- name: distances
SELECT v.event_id AS id, min(v.embedding <=> %(vector)s) AS distance
FROM unnest(%(ids)s::uuid[], %(timestamps)s::timestamptz[]) AS found (id, timestamp)
JOIN {table} v ON (v.event_id, v.timestamp, v.namespace)
    = (found.id, found.timestamp, %(namespace)s)
GROUP BY v.event_id

-- name: pending
SELECT count(*) AS pending FROM (
    SELECT FROM embedding_queue
    WHERE space = %(space)s AND namespace = %(namespace)s LIMIT %(limit)s) AS bounded
