-- name: room_for_lexemes
CREATE TEMP TABLE IF NOT EXISTS mnemolite_lexemes (
    namespace text, n bigint GENERATED ALWAYS AS IDENTITY, lexemes tsvector,
    PRIMARY KEY (namespace, n))

-- name: room_for_words
CREATE TEMP TABLE IF NOT EXISTS mnemolite_words (namespace text, lexeme text, documents bigint)

-- name: clear
TRUNCATE pg_temp.mnemolite_lexemes, pg_temp.mnemolite_words

-- name: have_room
-- For the words of a whole partition, to be sorted and joined.
SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)

-- name: gather_lexemes
-- Together by namespace, so that the partition is read once, however many there are.
INSERT INTO pg_temp.mnemolite_lexemes (namespace, lexemes)
SELECT namespace, strip(lexemes) FROM {partition} ORDER BY namespace

-- name: gather_words
-- ts_stat takes half the time of GROUP BY. In the order in which the lexicon was filled, so that
-- its pages are changed one after the other; and nothing is written before all is counted.
INSERT INTO pg_temp.mnemolite_words (namespace, lexeme, documents)
SELECT n.namespace, s.word, s.ndoc
FROM (SELECT DISTINCT namespace FROM pg_temp.mnemolite_lexemes) AS n,
    ts_stat(format('SELECT lexemes FROM pg_temp.mnemolite_lexemes WHERE namespace = %L',
        n.namespace)) AS s
ORDER BY n.namespace, s.word

-- name: discount
-- Nobody else counts meanwhile. A word of no other event goes; one that is yet to be counted (none
-- should be) is counted below nothing until it is.
MERGE INTO lexicon l USING pg_temp.mnemolite_words w
ON (l.namespace, l.lexeme) = (w.namespace, w.lexeme)
WHEN MATCHED AND l.documents = w.documents THEN DELETE
WHEN MATCHED THEN UPDATE SET documents = l.documents - w.documents
WHEN NOT MATCHED THEN
    INSERT (namespace, lexeme, documents) VALUES (w.namespace, w.lexeme, -w.documents)

-- name: discount_totals
INSERT INTO lexicon_totals AS l (namespace, documents, words)
SELECT namespace, -count(*), -sum(words) FROM {partition} GROUP BY namespace
ON CONFLICT (namespace) DO UPDATE
SET documents = l.documents + excluded.documents, words = l.words + excluded.words
