-- The adoption of a foreign database: how far it has come, what it has brought, what it could not
-- take, and, after the cut-over, what has changed here since. All of it is empty when none is under
-- way.
CREATE TABLE adoptions (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),  -- one at a time
    source text NOT NULL,  -- the server's identifier, the database's and the table's own numbers
    label text NOT NULL,  -- host, database and table, for people
    plan jsonb NOT NULL,
    phase text NOT NULL CHECK (phase IN
        ('copying', 'copied', 'cut over', 'rolling back', 'given back', 'finishing')),
    space integer,  -- of the source's vectors
    made_space boolean NOT NULL,  -- the space was made for them
    position text[],  -- the key of the last row that was copied
    total bigint NOT NULL,  -- rows of the source when it began
    started_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE adopted_events (
    id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    namespace text NOT NULL,
    with_vector boolean NOT NULL,  -- the source's
    PRIMARY KEY (id, timestamp)
);

CREATE TABLE adoption_refusals (
    id uuid NOT NULL,
    timestamp timestamptz,
    reason text NOT NULL,
    UNIQUE NULLS NOT DISTINCT (id, timestamp)
);

CREATE TABLE adoption_changes (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    namespace text NOT NULL
);

-- What is changed here, but for what the adoption itself does. Its triggers are on the events only
-- between the cut-over and the end of the adoption.
CREATE FUNCTION adoption_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('mnemolite.adopting', true) IS DISTINCT FROM 'on' THEN
        INSERT INTO adoption_changes (id, timestamp, namespace)
        SELECT t.id, t.timestamp, t.namespace FROM told t;
    END IF;
    RETURN NULL;
END $$;

-- adopted: vectors of another program. No worker adds to them, so nothing is queued for them; the
-- vectors of events that are deleted go with them.
ALTER TABLE embedding_spaces
    DROP CONSTRAINT embedding_spaces_status_check,
    ADD CONSTRAINT embedding_spaces_status_check
        CHECK (status IN ('active', 'building', 'retired', 'dropping', 'adopted'));

CREATE OR REPLACE FUNCTION events_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
    SELECT s.id, e.id, e.timestamp, e.namespace
    FROM inserted e CROSS JOIN embedding_spaces s
    WHERE s.status NOT IN ('dropping', 'adopted') AND e.text ~ '\S'
    ON CONFLICT DO NOTHING;
    INSERT INTO lexicon_queue (event_id, timestamp, namespace)
    SELECT e.id, e.timestamp, e.namespace FROM inserted e;
    RETURN NULL;
END $$;
