-- Runs are numbered from 1 in every database, and the outside world, which is told those numbers, knows several.
CREATE TABLE perdure.installation (
    id text NOT NULL
);
CREATE UNIQUE INDEX installation_is_one ON perdure.installation ((true));
COMMENT ON TABLE perdure.installation IS 'Which installation this is: one row, which idempotency keys begin with. A backup keeps it.';

-- The first 12 digits of such a UUID are random, all of them.
INSERT INTO perdure.installation (id) SELECT left(replace(gen_random_uuid()::text, '-', ''), 12);
