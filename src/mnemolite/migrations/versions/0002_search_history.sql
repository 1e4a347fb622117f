-- Explained searches: what was asked, and which events were found with which scores. Nothing of the
-- events themselves, so that what is deleted is gone.
CREATE TABLE search_history (
    id uuid PRIMARY KEY,  -- UUIDv7: its order is that of time
    created_at timestamptz NOT NULL DEFAULT now(),
    namespace text NOT NULL,
    query jsonb NOT NULL,
    outcome jsonb NOT NULL,  -- arms, degraded, plan, space
    hit_ids uuid[] NOT NULL,  -- best first
    hit_scores double precision[] NOT NULL,
    CHECK (cardinality(hit_ids) = cardinality(hit_scores))
);
CREATE INDEX search_history_namespace_idx ON search_history (namespace);

CREATE FUNCTION search_history_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM search_history h USING deleted d WHERE h.namespace = d.name;
    RETURN NULL;
END $$;
CREATE TRIGGER search_history_forget AFTER DELETE ON namespaces
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION search_history_forget();
