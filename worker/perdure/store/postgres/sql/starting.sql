-- What clients do: one statement each, no lease.

-- name: start
-- The run and its turn 0, unless the key was ever used or an instance of this id is open: then that run. No row at all:
-- another start won, but this statement's snapshot is too old to show it; the caller repeats.
WITH known AS MATERIALIZED (
    SELECT id, workflow, 0 AS rank FROM perdure.run WHERE key = :key::text
    UNION ALL
    SELECT id, workflow, 1 FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_as = 0
), created AS (
    INSERT INTO perdure.run (namespace, instance, workflow, queue, key, priority, deadline)
    SELECT :namespace::text, :instance::text, :workflow::text, :queue::text, :key::text, :priority::integer,
           now() + :timeout::bigint * interval '1 microsecond'
    WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT DO NOTHING
    RETURNING id, workflow, created_at
), turn AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT id, 0,
           '\x01'::bytea
           || convert_to('[{"type":"Turn","time":' || (extract(epoch FROM created_at) * 1000000)::bigint || '},', 'UTF8')
           || :event::bytea || ']'::bytea
    FROM created
), outside AS (
    INSERT INTO perdure.payload (run_id, seq, ordinal, data)
    SELECT created.id, 0, p.ordinal, p.data
    FROM created CROSS JOIN unnest(:payloads::bytea[]) WITH ORDINALITY AS p (data, ordinal)
)
SELECT id, true AS created, workflow FROM created
UNION ALL
(SELECT id, false, workflow FROM known ORDER BY rank LIMIT 1);

-- name: deliver
WITH told AS (
    UPDATE perdure.run
    SET mail = mail + 1,
        state = CASE WHEN state = 2 THEN 0 ELSE state END,
        wake_at = NULL,
        cancel_requested = cancel_requested OR :cancel::boolean
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_as = 0
    RETURNING id, mail, owner, queue, state
), noted AS (
    INSERT INTO perdure.inbox (run_id, number, owner, body)
    SELECT id, mail, owner, :body::bytea FROM told
)
SELECT id, owner, queue, state FROM told;

-- name: terminate
-- Locks the row first: its owner and mail must be the ones that the lock protects. A turn that the owner flushes
-- meanwhile takes the same place in the history; then the statement fails as a whole and the caller repeats.
WITH target AS MATERIALIZED (
    SELECT id, owner, mail, key FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_as = 0
    FOR NO KEY UPDATE
), closed AS (
    UPDATE perdure.run r
    SET state = 13, closed_as = r.id, owner = NULL, wake_at = NULL, closed_at = now(), outcome = :outcome::bytea,
        mail = CASE WHEN target.owner IS NULL THEN r.mail ELSE r.mail + 1 END,
        waiting_for = '', hold_reason = '', hold_message = ''
    FROM target
    WHERE r.id = target.id
), turn AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT target.id, last.seq + 1,
           '\x01'::bytea
           || convert_to(
                  '[{"type":"Turn","time":'
                  || greatest(
                         (extract(epoch FROM now()) * 1000000)::bigint,
                         substring(encode(substr(last.events, 2, 64), 'escape') FROM '"time":([0-9]+)')::bigint
                     )
                  || '},',
                  'UTF8'
              )
           || :event::bytea || ']'::bytea
    FROM target
    CROSS JOIN LATERAL (
        SELECT seq, events FROM perdure.history WHERE run_id = target.id ORDER BY seq DESC LIMIT 1
    ) last
), cleared AS (
    DELETE FROM perdure.inbox i USING target WHERE i.run_id = target.id
), dropped AS (
    DELETE FROM perdure.task t USING target WHERE t.run_id = target.id
), noted AS (
    INSERT INTO perdure.inbox (run_id, number, owner, body)
    SELECT id, mail + 1, owner, :outcome::bytea FROM target WHERE owner IS NOT NULL
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM target WHERE key IS NOT NULL
)
SELECT id, owner, key IS NOT NULL FROM target;

-- name: terminated
SELECT id, NULL::bigint, key IS NOT NULL FROM perdure.run
WHERE namespace = :namespace::text AND instance = :instance::text AND state = 13 AND outcome = :outcome::bytea
ORDER BY id DESC
LIMIT 1;

-- name: resume
WITH target AS MATERIALIZED (
    SELECT id, key, queue FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_as = 0 AND (state = 3) IS TRUE
    FOR NO KEY UPDATE
), freed AS (
    UPDATE perdure.run r
    SET state = 0, hold_reason = '', hold_message = '', held_builds = '{}'
    FROM target
    WHERE r.id = target.id
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM target WHERE key IS NOT NULL
)
SELECT id, queue, key IS NOT NULL FROM target;

-- name: resumed
SELECT id, queue, key IS NOT NULL FROM perdure.run
WHERE namespace = :namespace::text AND instance = :instance::text AND closed_as = 0 AND state <> 3;

-- name: notify
SELECT count(pg_notify('perdure', payload)) FROM unnest(:payloads::text[]) AS p (payload);
