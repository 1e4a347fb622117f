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

-- Changes of the layout that are under way, a row for each table; none: the layout is at rest.
CREATE TABLE relayouts (
    source text PRIMARY KEY,  -- the table, by the name that it keeps
    operation text NOT NULL CHECK (operation IN ('enable', 'split', 'undo-split', 'disable')),
    step text NOT NULL
        CHECK (step IN ('attach', 'create', 'copy', 'index', 'catch-up', 'drop', 'rename')),
    then_split boolean NOT NULL DEFAULT false,
    target jsonb,  -- the partitions that it gets; null: not settled, or none
    cursor jsonb NOT NULL DEFAULT '{}',  -- which of its tables are copied, and up to which key
    rows_copied bigint NOT NULL DEFAULT 0,
    rows_total bigint NOT NULL DEFAULT 0,  -- an estimate
    started_at timestamptz NOT NULL DEFAULT now()
);
