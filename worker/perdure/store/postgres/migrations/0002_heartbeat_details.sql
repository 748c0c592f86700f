-- What attempts that have not ended said last: a row for each activity that ever did, until its run closes.
CREATE TABLE perdure.heartbeat (
    run_id  bigint NOT NULL,
    seq     integer NOT NULL,
    details bytea NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE perdure.heartbeat IS 'The details that the last attempt of an activity gave with its last heartbeat, JSON.';
