-- The mean of the vectors when the index was built; the index holds what is left without it.
ALTER TABLE embedding_spaces ADD COLUMN centre vector;

-- Indexes of the vectors themselves are no longer read; workers build the new ones.
DO $$
DECLARE
    space integer;
BEGIN
    FOR space IN SELECT s.id FROM embedding_spaces s LOOP
        EXECUTE format('DROP INDEX IF EXISTS %I', 'embeddings_' || space || '_hnsw_idx');
    END LOOP;
END $$;
