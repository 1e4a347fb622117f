-- How a space's model is loaded, and how far the events older than the space have been queued.
ALTER TABLE embedding_spaces
    ADD COLUMN recipe jsonb NOT NULL DEFAULT '{}',  -- the settings that name the model
    ADD COLUMN fill_cursor uuid,  -- events up to this id are queued
    ADD COLUMN filled_at timestamptz;  -- null: not all of them are
UPDATE embedding_spaces SET filled_at = created_at;

-- building: filled beside the active one; retired: was active, kept complete for a way back.
ALTER TABLE embedding_spaces
    DROP CONSTRAINT embedding_spaces_status_check,
    ADD CONSTRAINT embedding_spaces_status_check
        CHECK (status IN ('active', 'building', 'retired', 'dropping'));
CREATE UNIQUE INDEX embedding_spaces_one_building_idx ON embedding_spaces (status)
    WHERE status = 'building';

-- After a statement has inserted: queue what has text, for every space that is kept complete, and
-- all of it for the lexicon.
CREATE OR REPLACE FUNCTION events_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
    SELECT s.id, e.id, e.timestamp, e.namespace
    FROM inserted e CROSS JOIN embedding_spaces s
    WHERE s.status <> 'dropping' AND e.text ~ '\S'
    ON CONFLICT DO NOTHING;
    INSERT INTO lexicon_queue (event_id, timestamp, namespace)
    SELECT e.id, e.timestamp, e.namespace FROM inserted e;
    RETURN NULL;
END $$;

-- After a statement has deleted: what was derived from the events goes too. The queue comes first:
-- that waits for a worker that is embedding one of them, and its vectors are then seen and deleted.
CREATE OR REPLACE FUNCTION events_forget() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    space integer;
BEGIN
    DELETE FROM embedding_queue q USING deleted d
    WHERE (q.event_id, q.timestamp, q.namespace) = (d.id, d.timestamp, d.namespace);
    -- What was never counted need not be discounted.
    WITH uncounted AS (
        DELETE FROM lexicon_queue q USING deleted d
        WHERE q.lexemes IS NULL
          AND (q.event_id, q.timestamp, q.namespace) = (d.id, d.timestamp, d.namespace)
        RETURNING q.event_id, q.timestamp, q.namespace)
    INSERT INTO lexicon_queue (event_id, timestamp, namespace, lexemes, words)
    SELECT d.id, d.timestamp, d.namespace, d.lexemes, d.words
    FROM deleted d
    WHERE NOT EXISTS (
        SELECT FROM uncounted u
        WHERE (u.event_id, u.timestamp, u.namespace) = (d.id, d.timestamp, d.namespace));
    FOR space IN SELECT s.id FROM embedding_spaces s WHERE s.status <> 'dropping' ORDER BY s.id LOOP
        EXECUTE format(
            'DELETE FROM %I v USING deleted d '
            'WHERE (v.event_id, v.timestamp, v.namespace) = (d.id, d.timestamp, d.namespace)',
            'embeddings_' || space);
    END LOOP;
    RETURN NULL;
END $$;
