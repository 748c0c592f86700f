-- A run that is started alone is announced with its input, in a NOTIFY, which every role that may connect can hear.
CREATE TABLE perdure.announcement_key (
    key bytea NOT NULL
);
COMMENT ON TABLE perdure.announcement_key IS 'What announcements of runs in NOTIFY are sealed with: whoever may read the tables can open them.';

INSERT INTO perdure.announcement_key (key)
SELECT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');
