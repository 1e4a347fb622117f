-- Who embeds the event; until not_before nobody else may. Not null and due: its worker is gone.
ALTER TABLE embedding_queue ADD COLUMN claimed_by uuid;

-- What each worker says of itself every few seconds.
CREATE TABLE workers (
    id uuid PRIMARY KEY,
    space integer NOT NULL REFERENCES embedding_spaces (id) ON DELETE CASCADE,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,  -- it ended in order
    last_success_at timestamptz,
    behind_since timestamptz,  -- since when the oldest event was due that it took and has not done
    claimed integer NOT NULL DEFAULT 0,
    events_per_second double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- One row that is written to find out whether the database takes writes.
CREATE TABLE write_probe (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    written_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
INSERT INTO write_probe DEFAULT VALUES;
