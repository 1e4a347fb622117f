-- How the events and their vectors are partitioned; no row: they are not.
CREATE TABLE partitioning (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    events_interval text NOT NULL
        CHECK (events_interval IN ('day', 'week', 'month', 'quarter', 'year')),
    embeddings_interval text NOT NULL
        CHECK (embeddings_interval IN ('none', 'day', 'week', 'month', 'quarter', 'year')),
    premake integer NOT NULL CHECK (premake BETWEEN 1 AND 100),
    retention interval CHECK (retention > interval '0'),  -- null: everything is kept
    manager text NOT NULL CHECK (manager IN ('native', 'pg_partman')),
    enabled_at timestamptz NOT NULL DEFAULT now()
);
