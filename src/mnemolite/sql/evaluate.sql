-- name: texts
SELECT e.text FROM events e
WHERE e.namespace = %(namespace)s AND e.words >= 3
ORDER BY md5(%(seed)s || e.text), e.id
LIMIT %(count)s
