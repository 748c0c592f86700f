-- What attempts that have not ended said last: a row for each activity that ever did, until its run closes.
CREATE TABLE perdure.heartbeat (
    run_id  bigint NOT NULL,
    seq     integer NOT NULL,
    details bytea NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE perdure.heartbeat IS 'The details that the last attempt of an activity gave with its last heartbeat, JSON.';

-- True when the run has such rows; NULL, which takes no room, when it never had any.
ALTER TABLE perdure.run ADD COLUMN beats boolean;

-- For the statement that closes runs and holds their rows: it began before it could lock them, and does not see what was
-- written until then. A volatile function does.
CREATE FUNCTION perdure.silence(runs bigint[]) RETURNS bigint
LANGUAGE sql VOLATILE STRICT
AS $$
    WITH gone AS (DELETE FROM perdure.heartbeat WHERE run_id = ANY (runs) RETURNING run_id) SELECT count(*) FROM gone
$$;
