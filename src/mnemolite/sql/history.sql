-- name: record
INSERT INTO search_history (id, namespace, query, outcome, hit_ids, hit_scores)
VALUES (%(id)s, %(namespace)s, %(query)s::text::jsonb, %(outcome)s::text::jsonb, %(hit_ids)s,
    %(hit_scores)s)

-- name: get
SELECT id, created_at, query, outcome, hit_ids, hit_scores FROM search_history WHERE id = %(id)s

-- name: purge
DELETE FROM search_history WHERE id IN (
    SELECT id FROM (
        SELECT id, created_at FROM search_history ORDER BY id LIMIT %(step)s) AS oldest
    WHERE created_at < now() - make_interval(days => %(days)s)
        OR id <= (SELECT id FROM search_history ORDER BY id DESC OFFSET %(keep)s LIMIT 1))
