-- Requests that came with a key, and how they were answered. Nothing of the events but their ids, so
-- that what is erased is gone; a retry's answer is built from the events themselves.
CREATE TABLE idempotency_keys (
    namespace text NOT NULL,  -- of the request's first event
    key text NOT NULL,
    digest bytea,  -- SHA-256 of the request; null: an event of the answer was deleted since
    event_ids uuid[] NOT NULL,  -- in the order of the request
    pending boolean[] NOT NULL,  -- as it was answered, for each of them
    created integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (namespace, key),
    CHECK (cardinality(event_ids) = cardinality(pending))
);
-- Without the list of pending entries, which every deletion of an event would have to read through.
CREATE INDEX idempotency_keys_events_idx ON idempotency_keys USING gin (event_ids)
    WITH (fastupdate = off);
CREATE INDEX idempotency_keys_expires_idx ON idempotency_keys (expires_at);

-- How the request of that key was answered; others with the same key wait until the transaction
-- ends. A statement sees what was committed before it began, so the look comes after the lock.
CREATE FUNCTION idempotency_answer(of_namespace text, of_key text) RETURNS SETOF idempotency_keys
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(of_namespace || ' ' || of_key, 1));
    RETURN QUERY SELECT * FROM idempotency_keys k
    WHERE k.namespace = of_namespace AND k.key = of_key AND k.expires_at > now();
END $$;

-- A key outlives the events that it stored, so that a late retry does not bring back what was
-- erased. The digest goes: short texts could be guessed from it.
CREATE FUNCTION idempotency_keys_blank() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- As a value, so that the statement is planned for the table as it is today.
    gone uuid[] := ARRAY(SELECT id FROM deleted);
BEGIN
    UPDATE idempotency_keys k SET digest = NULL, event_ids = '{}', pending = '{}'
    FROM unnest(gone) AS id WHERE k.event_ids @> ARRAY[id];
    RETURN NULL;
END $$;
CREATE TRIGGER idempotency_keys_blank AFTER DELETE ON events
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION idempotency_keys_blank();

CREATE FUNCTION idempotency_keys_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM idempotency_keys k USING deleted d WHERE k.namespace = d.name;
    RETURN NULL;
END $$;
CREATE TRIGGER idempotency_keys_forget AFTER DELETE ON namespaces
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION idempotency_keys_forget();
