-- What became of the events: which came, whose metadata changed, which went. Nothing of what they
-- hold: readers join what is still there, so what is deleted is told of by its id alone.
--
-- The order is that of the transactions' ids. A reader takes only rows of transactions older than
-- every one that still runs, so a slow one is waited for, never skipped; within a transaction n is
-- the order, and gaps in it, such as those of its cache, mean nothing.
CREATE TABLE event_changes (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    n bigint GENERATED ALWAYS AS IDENTITY (CACHE 50),
    timestamp timestamptz NOT NULL,
    at timestamptz NOT NULL DEFAULT statement_timestamp(),
    event_id uuid NOT NULL,
    kind text NOT NULL,  -- added, changed or deleted
    namespace text NOT NULL,
    PRIMARY KEY (xid, n)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000);

-- The server, the database and the table: a restart, a replica and a promotion keep them, a restore
-- from a dump does not.
CREATE FUNCTION feed_home() RETURNS text LANGUAGE sql STABLE
RETURN concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    (SELECT oid FROM pg_class WHERE oid = 'event_changes'::regclass));

-- One row: whose changes these are. Transactions are numbered anew in a database that was restored
-- from a dump, so positions from before mean nothing there, and another epoch begins.
CREATE TABLE feed (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch text NOT NULL DEFAULT encode(substring(uuid_send(gen_random_uuid()) FROM 1 FOR 4), 'hex'),
    home text NOT NULL DEFAULT feed_home(),  -- where the changes were written
    purged_xid xid8 NOT NULL DEFAULT '0',  -- the last row that was purged
    purged_n bigint NOT NULL DEFAULT 0
);
INSERT INTO feed DEFAULT VALUES;

-- After a statement has inserted, updated or deleted events, COPY and bulk deletes included.
CREATE FUNCTION events_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event_changes (kind, event_id, timestamp, namespace)
    SELECT TG_ARGV[0], t.id, t.timestamp, t.namespace FROM told t;
    RETURN NULL;
END $$;
CREATE TRIGGER events_tell_added AFTER INSERT ON events
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION events_tell('added');
CREATE TRIGGER events_tell_changed AFTER UPDATE ON events
    REFERENCING NEW TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION events_tell('changed');
CREATE TRIGGER events_tell_deleted AFTER DELETE ON events
    REFERENCING OLD TABLE AS told FOR EACH STATEMENT EXECUTE FUNCTION events_tell('deleted');
