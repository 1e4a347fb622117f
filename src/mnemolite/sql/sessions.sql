-- name: before
SELECT id, timestamp FROM events
WHERE namespace = %(namespace)s AND session = {event}.session AND {span}
  AND timestamp <= {event}.timestamp AND (timestamp, id) < ({event}.timestamp, {event}.id)
ORDER BY timestamp DESC, id DESC LIMIT {most}

-- name: after
SELECT id, timestamp FROM events
WHERE namespace = %(namespace)s AND session = {event}.session AND {span}
  AND timestamp >= {event}.timestamp AND (timestamp, id) > ({event}.timestamp, {event}.id)
ORDER BY timestamp, id LIMIT {most}

-- name: nearest_before
SELECT id, timestamp FROM ({parts}) AS near ORDER BY timestamp DESC, id DESC LIMIT {most}

-- name: nearest_after
SELECT id, timestamp FROM ({parts}) AS near ORDER BY timestamp, id LIMIT {most}
