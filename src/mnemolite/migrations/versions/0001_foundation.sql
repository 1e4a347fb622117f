-- Events, the registry of embedding spaces, the embedding queue, and the triggers that keep them
-- together also for people who insert with plain SQL.

CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS unaccent;

-- One configuration for each language PostgreSQL knows, "mnemo_<language>", with accents folded, so
-- that "cafe" finds "café" and the other way round.
DO $$
DECLARE
    built_in record;
    stemmer regdictionary;
BEGIN
    FOR built_in IN
        SELECT cfgname FROM pg_catalog.pg_ts_config
        WHERE cfgnamespace = 'pg_catalog'::regnamespace ORDER BY cfgname
    LOOP
        SELECT m.mapdict INTO stemmer
        FROM pg_catalog.pg_ts_config c
        JOIN pg_catalog.pg_ts_config_map m ON m.mapcfg = c.oid
        JOIN pg_catalog.ts_token_type(c.cfgparser) t ON t.tokid = m.maptokentype
        WHERE c.cfgname = built_in.cfgname AND c.cfgnamespace = 'pg_catalog'::regnamespace
          AND t.alias = 'word'
        ORDER BY m.mapseqno DESC LIMIT 1;
        EXECUTE format('CREATE TEXT SEARCH CONFIGURATION %I (COPY = pg_catalog.%I)',
            'mnemo_' || built_in.cfgname, built_in.cfgname);
        EXECUTE format(
            'ALTER TEXT SEARCH CONFIGURATION %I ALTER MAPPING FOR hword, hword_part, word '
            'WITH unaccent, %s', 'mnemo_' || built_in.cfgname, stemmer);
    END LOOP;
END $$;

-- The text of an event: its "text", "content" or "message" where that is a string, the text parts
-- of a list of parts, else every string and number inside, in the order jsonb keeps them.
CREATE FUNCTION event_text(content jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(content -> 'text') = 'string' THEN content ->> 'text'
    WHEN jsonb_typeof(content -> 'content') = 'string' THEN content ->> 'content'
    WHEN jsonb_typeof(content -> 'message') = 'string' THEN content ->> 'message'
    WHEN jsonb_path_exists(content, '$.content[*].text ? (@.type() == "string")') THEN (
        SELECT string_agg(part #>> '{}', E'\n')
        FROM jsonb_path_query(content, '$.content[*].text ? (@.type() == "string")') AS part)
    ELSE coalesce((
        SELECT string_agg(leaf #>> '{}', E'\n')
        FROM jsonb_path_query(content - '{speaker,role}'::text[],
            'strict $.** ? (@.type() == "string" || @.type() == "number")') AS leaf), '')
END;

CREATE FUNCTION event_speaker(content jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(
    CASE WHEN jsonb_typeof(content -> 'speaker') = 'string' THEN nullif(content ->> 'speaker', '') END,
    CASE WHEN jsonb_typeof(content -> 'role') = 'string' THEN nullif(content ->> 'role', '') END,
    CASE WHEN jsonb_typeof(content -> 'name') = 'string' THEN nullif(content ->> 'name', '') END);

-- What the parser takes for blanks, exactly as it stands: names that end in symbols ("C++", "F#"),
-- and pictures.
CREATE FUNCTION symbol_lexemes(text text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_to_tsvector(ARRAY(
    SELECT DISTINCT lower(symbol[1])
    FROM regexp_matches(text,
        '((?<![[:alnum:]])[[:alnum:]]{1,20}(?:\+\+|#)|[\u2600-\u27BF\U0001F300-\U0001FAFF])', 'g')
        AS symbol));

-- The pairs of neighbouring characters of scripts that put no spaces between words.
CREATE FUNCTION pair_lexemes(text text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_to_tsvector(ARRAY(
    SELECT DISTINCT substr(run[1], at, 2)
    FROM regexp_matches(text, '([\u2E80-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF]+)', 'g') AS run,
        generate_series(1, greatest(1, length(run[1]) - 1)) AS at));

-- The words of a text, as stored and as asked for. The functions behind the CASEs are called for
-- few texts; this one is simple enough to be inlined.
CREATE FUNCTION text_lexemes(language regconfig, text text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_tsvector(language, text)
    || CASE WHEN text ~ '[[:alnum:]](\+\+|#)|[\u2600-\u27BF\U0001F300-\U0001FAFF]'
        THEN symbol_lexemes(text) ELSE ''::tsvector END
    || CASE WHEN text ~ '[\u2E80-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF]' THEN pair_lexemes(text)
        ELSE ''::tsvector END;

-- Who said it and when, in the words of somebody who asks: "Caroline 8 May 2023".
CREATE FUNCTION event_occasion(content jsonb, at timestamp) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(event_speaker(content), '') || ' ' || extract(day FROM at)::integer::text || ' '
    || (ARRAY['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August',
        'September', 'October', 'November', 'December'])[extract(month FROM at)::integer]
    || ' ' || extract(year FROM at)::integer::text;

-- The words of an event: its text's, its speaker's and its date's.
CREATE FUNCTION event_lexemes(language regconfig, text text, content jsonb, at timestamptz)
RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN text_lexemes(language, text)
    || to_tsvector(language, event_occasion(content, at AT TIME ZONE 'UTC'));

-- How many words a document has; those without positions were added once.
CREATE FUNCTION word_count(lexemes tsvector) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(sum(coalesce(cardinality(positions), 1)), 0)::integer FROM unnest(lexemes));

-- How often a document has a word, up to 32. PostgreSQL tells no frequency, but its rank of a single
-- word is a function of nothing else: the sum of 1/i² over its places, divided by 1.64493406685
-- (calc_rank_or in tsrank.c). Each bound lies half way between two frequencies.
CREATE FUNCTION term_frequency(lexemes tsvector, term tsquery) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN width_bucket(ts_rank('{1, 1, 1, 1}'::real[], lexemes, term)::double precision, ARRAY[
        0.30396, 0.68392, 0.79368, 0.84645, 0.87761, 0.89821, 0.91286, 0.92381,
        0.93231, 0.93911, 0.94466, 0.94928, 0.95319, 0.95654, 0.95944, 0.96198,
        0.96422, 0.96621, 0.96799, 0.96959, 0.97104, 0.97236, 0.97356, 0.97466,
        0.97568, 0.97661, 0.97748, 0.97828, 0.97903, 0.97973, 0.98039, 0.98100]);

-- A UUIDv7 of that time, for rows that come without an id.
CREATE FUNCTION event_id(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    overlay(
        overlay(uuid_send(gen_random_uuid()) PLACING substring(
            int8send(greatest(0, floor(extract(epoch FROM at) * 1000))::bigint) FROM 3) FROM 1 FOR 6)
        PLACING set_byte(
            '\x00'::bytea, 0, 112 | (get_byte(uuid_send(gen_random_uuid()), 0) & 15)) FROM 7 FOR 1),
    'hex')::uuid;

CREATE TABLE namespaces (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    language regconfig NOT NULL DEFAULT 'mnemo_english',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE events (
    id uuid NOT NULL,
    namespace text NOT NULL DEFAULT 'default',
    session text CHECK (length(session) BETWEEN 1 AND 200),
    timestamp timestamptz NOT NULL DEFAULT now() CHECK (
        timestamp >= '0001-01-01 00:00:00+00' AND timestamp < '10000-01-01 00:00:00+00'),
    created_at timestamptz NOT NULL DEFAULT now(),
    content jsonb NOT NULL CHECK (jsonb_typeof(content) = 'object'),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    language regconfig NOT NULL,
    -- The words of a longer text would hardly fit into a tsvector, which holds 1 MiB.
    text text NOT NULL CHECK (octet_length(text) <= 1048576),
    lexemes tsvector GENERATED ALWAYS AS (
        event_lexemes(language, text, content, timestamp)) STORED,
    words integer GENERATED ALWAYS AS (
        word_count(event_lexemes(language, text, content, timestamp))) STORED,
    PRIMARY KEY (id, timestamp, namespace)
);
CREATE INDEX events_time_idx ON events (namespace, timestamp, id);
CREATE INDEX events_session_idx ON events (namespace, session, timestamp, id);
CREATE INDEX events_lexemes_idx ON events USING gin (lexemes);
CREATE INDEX events_metadata_idx ON events USING gin (metadata jsonb_path_ops);

CREATE TABLE embedding_spaces (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    model text NOT NULL,
    revision text NOT NULL,
    dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 4000),
    query_prefix text NOT NULL,
    document_prefix text NOT NULL,
    pooling text NOT NULL,
    normalisation text NOT NULL,
    template text NOT NULL,
    max_tokens integer NOT NULL,
    digest text NOT NULL UNIQUE,
    status text NOT NULL DEFAULT 'building' CHECK (status IN ('active', 'building', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz
);
CREATE UNIQUE INDEX embedding_spaces_one_active_idx ON embedding_spaces (status)
    WHERE status = 'active';

CREATE TABLE embedding_queue (
    space integer NOT NULL REFERENCES embedding_spaces (id) ON DELETE CASCADE,
    event_id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    namespace text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),  -- infinity: parked
    error text,
    queued_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (space, event_id, timestamp, namespace)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX embedding_queue_due_idx ON embedding_queue (space, not_before, queued_at);
CREATE INDEX embedding_queue_namespace_idx ON embedding_queue (space, namespace);

-- The statistics that BM25 needs: in how many of a namespace's events a lexeme occurs, how many
-- events there are, and how many words. Counting inside the writers' transactions would make them
-- wait for each other at every common word, so what has come and gone is queued, and the worker
-- counts it in batches.
CREATE TABLE lexicon (
    namespace text NOT NULL,
    lexeme text NOT NULL,
    documents bigint NOT NULL,
    PRIMARY KEY (namespace, lexeme)
) WITH (fillfactor = 80);
CREATE TABLE lexicon_totals (
    namespace text PRIMARY KEY,
    documents bigint NOT NULL,
    words bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE lexicon_queue (
    event_id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    namespace text NOT NULL,
    lexemes tsvector,  -- of an event that is gone; null: the event has come
    words integer
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX lexicon_queue_event_idx ON lexicon_queue (event_id);

-- Before a row is stored: fill in what plain SQL leaves out.
CREATE FUNCTION events_fill() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.id := coalesce(NEW.id, event_id(NEW.timestamp));
    NEW.text := coalesce(NEW.text, event_text(NEW.content));
    IF NEW.language IS NULL THEN
        SELECT language INTO NEW.language FROM namespaces WHERE name = NEW.namespace;
        IF NOT FOUND THEN
            INSERT INTO namespaces (name) VALUES (NEW.namespace) ON CONFLICT DO NOTHING;
            SELECT language INTO STRICT NEW.language FROM namespaces WHERE name = NEW.namespace;
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER events_fill BEFORE INSERT ON events FOR EACH ROW
    WHEN (NEW.id IS NULL OR NEW.text IS NULL OR NEW.language IS NULL)
    EXECUTE FUNCTION events_fill();

-- Events are kept exactly as they were told: only metadata (and the language of their words) change.
CREATE FUNCTION events_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are kept exactly: only metadata and language can be changed'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER events_keep
    BEFORE UPDATE OF id, namespace, session, timestamp, created_at, content, text ON events
    FOR EACH ROW EXECUTE FUNCTION events_keep();

-- After a statement has inserted: queue what has text, for every space that is being filled, and
-- all of it for the lexicon.
CREATE FUNCTION events_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedding_queue (space, event_id, timestamp, namespace)
    SELECT s.id, e.id, e.timestamp, e.namespace
    FROM inserted e CROSS JOIN embedding_spaces s
    WHERE s.status IN ('active', 'building') AND e.text ~ '\S'
    ON CONFLICT DO NOTHING;
    INSERT INTO lexicon_queue (event_id, timestamp, namespace)
    SELECT e.id, e.timestamp, e.namespace FROM inserted e;
    RETURN NULL;
END $$;
CREATE TRIGGER events_queue AFTER INSERT ON events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION events_queue();

-- After a statement has deleted: what was derived from the events goes too. The queue comes first:
-- that waits for a worker that is embedding one of them, and its vectors are then seen and deleted.
CREATE FUNCTION events_forget() RETURNS trigger LANGUAGE plpgsql AS $$
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
    FOR space IN SELECT s.id FROM embedding_spaces s ORDER BY s.id LOOP
        EXECUTE format(
            'DELETE FROM %I v USING deleted d '
            'WHERE (v.event_id, v.timestamp, v.namespace) = (d.id, d.timestamp, d.namespace)',
            'embeddings_' || space);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER events_forget AFTER DELETE ON events
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION events_forget();
