-- name: vectors
SELECT v.event_id, v.embedding FROM {table} v {join}
WHERE v.namespace = %(namespace)s AND v.timestamp >= %(since)s AND v.timestamp < %(until)s
  AND {where}

-- name: copy
COPY ({vectors}) TO STDOUT (FORMAT BINARY)
