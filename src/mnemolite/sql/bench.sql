-- name: empty
TRUNCATE events, embedding_queue, lexicon, lexicon_totals, lexicon_queue, {table}

-- name: vacuum
VACUUM (ANALYZE)

-- name: longest_session
SELECT session FROM events WHERE namespace = %(namespace)s AND session IS NOT NULL
GROUP BY session ORDER BY count(*) DESC, session LIMIT 1
