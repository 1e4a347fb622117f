-- name: primary_position
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || current_database() AS identity,
    (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
        - '0/0')::bigint AS position

-- name: replica_position
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || current_database() AS identity,
    pg_is_in_recovery() AS standby, (pg_last_wal_replay_lsn() - '0/0')::bigint AS position,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS last_change
