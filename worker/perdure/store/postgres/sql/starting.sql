-- What clients do: one statement each, no lease.

-- name: start
-- Runs and their turns 0, unless the key was ever used or an instance of this id is open: then those runs. When another
-- start wins too late for the snapshot to show it, the statement fails as a whole, and the caller repeats it; the order
-- of the inserts keeps two such statements from waiting for each other.
-- Runs that a worker of the asking process would take are its own from the start, with the first turn that it has taken
-- already. After a lost answer `born` comes before a repeat: it finds what was made, also when it is closed by now.
WITH fence AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), asked AS MATERIALIZED (
    SELECT a.*, coalesce(k.id, o.id) AS known_id, coalesce(k.workflow, o.workflow) AS known_workflow,
           coalesce(k.created_at, o.created_at) AS known_since
    FROM unnest(
        :namespaces::text[], :instances::text[], :workflows::text[], :queues::text[], :keys::text[],
        :priorities::integer[], :timeouts::bigint[], :events::bytea[], :turns::bytea[], :taken::integer[],
        :suspended::integer[], :builds::text[]
    ) WITH ORDINALITY AS a (
        namespace, instance, workflow, queue, key, priority, timeout, event, turn, taken, suspended, build, place
    )
    LEFT JOIN LATERAL (SELECT * FROM perdure.run WHERE key = a.key OFFSET 0) k ON true
    LEFT JOIN LATERAL (
        SELECT * FROM perdure.run WHERE namespace = a.namespace AND instance = a.instance AND closed_at IS NULL OFFSET 0
    ) o ON true
), placed AS MATERIALIZED (
    SELECT n.*, nextval('perdure.run_id') AS id FROM (
        SELECT asked.*, CASE WHEN taken = 1 THEN (SELECT id FROM fence) END AS owner
        FROM asked WHERE known_id IS NULL
        ORDER BY namespace, instance
    ) n
), created AS (
    INSERT INTO perdure.run (
        id, namespace, instance, workflow, queue, key, build, priority, suspended, deadline, state, owner, claim, claims
    )
    SELECT id, namespace, instance, workflow, queue, key, build, priority, suspended IS NOT NULL, now() + timeout * interval '1 microsecond',
           CASE WHEN owner IS NULL THEN 0 ELSE 1 END, owner, :claim::bigint,
           CASE WHEN owner IS NULL THEN 0 ELSE 1 END
    FROM placed
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT id, 0,
           coalesce(
               turn,
               '\x01'::bytea
               || convert_to('[' || (extract(epoch FROM now()) * 1000000)::bigint || ',[', 'UTF8')
               || event || ']]'::bytea
           )
    FROM placed
), outside AS (
    INSERT INTO perdure.payload (run_id, seq, ordinal, data)
    SELECT placed.id, 0, p.ordinal, p.data
    FROM placed
    JOIN unnest(:payload_places::bigint[], :payload_ordinals::integer[], :payloads::bytea[]) AS p (place, ordinal, data)
        ON p.place = placed.place
)
SELECT place, id, true, workflow, owner IS NOT NULL, (extract(epoch FROM now()) * 1000000)::bigint
FROM placed CROSS JOIN (SELECT count(pg_notify(channel, :hint::text)) FROM unnest(:channels::text[]) AS c (channel)) AS told
UNION ALL
SELECT place, known_id, false, known_workflow, false, (extract(epoch FROM known_since) * 1000000)::bigint
FROM asked WHERE known_id IS NOT NULL;

-- name: start_own
-- What "start" does, for one run that is started alone and that a worker of the asking process takes with its first turn:
-- less than half of the work of the long statement. No row when there is more to it: the id is in use, or the lease gone.
WITH fence AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), created AS (
    INSERT INTO perdure.run (
        id, namespace, instance, workflow, queue, build, priority, deadline, state, owner, claim, claims
    )
    SELECT nextval('perdure.run_id'), :namespace::text, :instance::text, :workflow::text, :queue::text, :build::text,
           :priority::integer, now() + :timeout::bigint * interval '1 microsecond', 1, id, :claim::bigint, 1
    FROM fence
    WHERE NOT EXISTS (
        SELECT FROM perdure.run
        WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL
    )
    RETURNING id
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events) SELECT id, 0, :turn::bytea FROM created
)
SELECT 1, id, true, :workflow::text, true, (extract(epoch FROM now()) * 1000000)::bigint FROM created;

-- name: start_one
-- The same for one run that is left to whoever finds it. A hint that announces the run is completed here, with what only
-- the statement knows.
WITH known AS MATERIALIZED (
    SELECT id, workflow, created_at FROM perdure.run WHERE key = :key::text
    UNION ALL
    SELECT id, workflow, created_at FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL
    LIMIT 1
), created AS (
    INSERT INTO perdure.run (id, namespace, instance, workflow, queue, key, build, priority, suspended, deadline)
    SELECT nextval('perdure.run_id'), :namespace::text, :instance::text, :workflow::text, :queue::text, :key::text,
           :build::text, :priority::integer, :suspended::boolean, now() + :timeout::bigint * interval '1 microsecond'
    WHERE NOT EXISTS (SELECT FROM known)
    RETURNING id, deadline
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT id, 0,
           '\x01'::bytea
           || convert_to('[' || (extract(epoch FROM now()) * 1000000)::bigint || ',[', 'UTF8')
           || :event::bytea || ']]'::bytea
    FROM created
)
SELECT 1, id, true, :workflow::text, false, (extract(epoch FROM now()) * 1000000)::bigint
FROM created CROSS JOIN LATERAL (
    SELECT count(pg_notify(channel, CASE
        WHEN NOT :announced::boolean THEN :hint::text
        ELSE :hint || id || ',' || (extract(epoch FROM now()) * 1000000)::bigint || ','
            || coalesce((extract(epoch FROM deadline) * 1000000)::bigint::text, 'null') || ']]'
    END)) FROM unnest(:channels::text[]) AS c (channel)
) told
UNION ALL
SELECT 1, id, false, workflow, false, (extract(epoch FROM created_at) * 1000000)::bigint FROM known;

-- name: born
-- Which of these starts an earlier try has made, whatever became of their runs: turn 0 has the seed of the start, which
-- is random. An id may be used again once its run is closed, so the id alone does not tell.
SELECT a.place, r.id, true, r.workflow, (r.claim = :claim::bigint AND r.owner = :worker::bigint) IS TRUE,
       (extract(epoch FROM r.created_at) * 1000000)::bigint
FROM unnest(:namespaces::text[], :instances::text[], :events::bytea[], :turns::bytea[])
    WITH ORDINALITY AS a (namespace, instance, event, turn, place)
CROSS JOIN LATERAL (
    SELECT id, workflow, claim, owner, created_at FROM perdure.run
    WHERE namespace = a.namespace AND instance = a.instance AND closed_at IS NULL
    UNION ALL
    SELECT id, workflow, claim, owner, created_at FROM perdure.run
    WHERE hashtext(instance) = hashtext(a.instance) AND closed_at IS NOT NULL
      AND namespace = a.namespace AND instance = a.instance
) r
CROSS JOIN LATERAL (SELECT events FROM perdure.history WHERE run_id = r.id AND seq = 0 OFFSET 0) h
WHERE h.events = a.turn OR position(a.event IN h.events) > 0;

-- name: deliver
-- Messages for open runs, numbered by them, those for one run in the order given. Several runs are locked in the order
-- in which everybody locks runs (see "flush" for the exception); one alone needs no lock before its change.
WITH found AS MATERIALIZED (
    SELECT r.id, bool_or(a.cancel = 1) AS cancel, array_agg(a.body ORDER BY a.place) AS bodies, array_agg(a.place) AS places
    FROM unnest(:namespaces::text[], :instances::text[], :runs::bigint[], :cancels::integer[], :bodies::bytea[])
        WITH ORDINALITY AS a (namespace, instance, run, cancel, body, place)
    CROSS JOIN LATERAL (
        SELECT id FROM perdure.run
        WHERE namespace = a.namespace AND instance = a.instance AND closed_at IS NULL AND id = coalesce(a.run, id)
        OFFSET 0
    ) r
    GROUP BY r.id
), locked AS MATERIALIZED (
    SELECT r.id FROM (SELECT id FROM found WHERE :several::boolean ORDER BY id) f CROSS JOIN LATERAL (
        SELECT id FROM perdure.run WHERE id = f.id AND (closed_at IS NULL) IS TRUE FOR NO KEY UPDATE
    ) r
), told AS (
    UPDATE perdure.run r
    SET mail = r.mail + cardinality(a.bodies),
        state = CASE WHEN r.state = 2 THEN 0 ELSE r.state END,
        wake_at = NULL,
        cancel_requested = r.cancel_requested OR a.cancel,
        suspended = r.suspended AND NOT a.cancel
    FROM found a
    WHERE r.id = ANY (ARRAY[a.id]) AND (r.closed_at IS NULL) IS TRUE
      AND (NOT :several::boolean OR a.id IN (SELECT id FROM locked))
    RETURNING a.places, r.id, r.owner, r.queue, r.state, r.mail - cardinality(a.bodies) AS before, a.bodies
), noted AS (
    INSERT INTO perdure.inbox (run_id, number, owner, body)
    SELECT t.id, t.before + b.place, t.owner, b.body
    FROM told t CROSS JOIN unnest(t.bodies) WITH ORDINALITY AS b (body, place)
)
SELECT unnest(places), id, owner, queue, state FROM told;

-- name: delivered
-- Which of these messages an earlier try has delivered, whatever became of their runs: each has an id of its own, which
-- stands in the inbox until a turn consumes it, and in that turn ever after. An instance of the same id may be open now,
-- for which the message was not meant.
SELECT a.place, r.id, r.owner, r.queue, r.state
FROM unnest(:namespaces::text[], :instances::text[], :marks::bytea[])
    WITH ORDINALITY AS a (namespace, instance, mark, place)
CROSS JOIN LATERAL (
    SELECT id, owner, queue, state FROM perdure.run
    WHERE namespace = a.namespace AND instance = a.instance AND closed_at IS NULL
    UNION ALL
    SELECT id, owner, queue, state FROM perdure.run
    WHERE hashtext(instance) = hashtext(a.instance) AND closed_at IS NOT NULL
      AND namespace = a.namespace AND instance = a.instance
) r
CROSS JOIN LATERAL (
    SELECT FROM perdure.inbox WHERE run_id = r.id AND position(a.mark IN body) > 0
    UNION ALL
    SELECT FROM perdure.history WHERE run_id = r.id AND position(a.mark IN events) > 0
    LIMIT 1
) found;

-- name: terminate
-- Locks the row first: its owner and mail must be the ones that the lock protects. A turn that the owner flushes
-- meanwhile takes the same place in the history; then the statement fails as a whole and the caller repeats. A message
-- that comes meanwhile is not seen by the snapshot, and left: then the mail has another number there than the row that
-- is locked, and the caller removes what came between, as it does the activities that the owner offered meanwhile. A run
-- whose time is over (14) is left to its owner, if that lives.
WITH target AS MATERIALIZED (
    SELECT id, owner, mail, key, beats FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL
      AND id = coalesce(:run::bigint, id)
      AND (
          :ending::integer = 13
          OR NOT suspended AND (owner IN (SELECT id FROM perdure.worker WHERE expires_at > clock_timestamp())) IS NOT TRUE
      )
    FOR NO KEY UPDATE
), closed AS (
    UPDATE perdure.run r
    SET state = :ending::integer, owner = NULL, wake_at = NULL, closed_at = now(), outcome = :outcome::bytea,
        mail = CASE WHEN target.owner IS NULL THEN r.mail ELSE r.mail + 1 END,
        waiting_for = NULL, hold_reason = NULL, hold_message = NULL
    FROM target
    WHERE r.id = ANY (ARRAY[target.id])
), turn AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT target.id, last.seq + 1,
           '\x01'::bytea
           || convert_to(
                  '['
                  || greatest(
                         (extract(epoch FROM now()) * 1000000)::bigint,
                         substring(encode(substr(last.events, 2, 64), 'escape') FROM '^[[]([0-9]+)')::bigint
                     )
                  || ',[',
                  'UTF8'
              )
           || :event::bytea || ']]'::bytea
    FROM target
    CROSS JOIN LATERAL (
        SELECT seq, events FROM perdure.history WHERE run_id = target.id ORDER BY seq DESC LIMIT 1
    ) last
), cleared AS (
    DELETE FROM perdure.inbox WHERE run_id = (SELECT id FROM target)
), dropped AS (
    DELETE FROM perdure.task WHERE run_id = (SELECT id FROM target)
), noted AS (
    INSERT INTO perdure.inbox (run_id, number, owner, body)
    -- Nobody would ever read, or remove, a note to a worker that is gone.
    SELECT id, mail + 1, owner, :outcome::bytea FROM target
    WHERE owner IN (SELECT id FROM perdure.worker WHERE expires_at > clock_timestamp())
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM target WHERE key IS NOT NULL
)
SELECT id, owner, key IS NOT NULL, mail, (SELECT mail FROM perdure.run r WHERE r.id = target.id),
       CASE WHEN beats THEN perdure.silence(ARRAY[id]) END
FROM target;

-- name: withdraw
DELETE FROM perdure.task WHERE run_id = :run::bigint;

-- name: terminated
-- The outcome has the id of the request, so that it is the run which an earlier try of the same request has closed.
SELECT id, NULL::bigint, key IS NOT NULL, mail, mail FROM perdure.run
WHERE namespace = :namespace::text AND instance = :instance::text AND hashtext(instance) = hashtext(:instance::text)
  AND closed_at IS NOT NULL AND state = :ending::integer AND outcome = :outcome::bytea
  AND id = coalesce(:run::bigint, id)
ORDER BY id DESC
LIMIT 1;

-- name: overdue
-- Runs that nobody has, and those of owners that are dead: where a whole namespace has no worker, nobody frees them.
WITH gone AS MATERIALIZED (
    SELECT owner FROM perdure.run WHERE state = 1
    EXCEPT SELECT id FROM perdure.worker WHERE expires_at > clock_timestamp()
)
SELECT r.namespace, r.instance, r.id
FROM perdure.worker w LEFT JOIN LATERAL (
    (
        SELECT namespace, instance, id FROM perdure.run
        WHERE deadline <= now() AND state IN (0, 2, 3) AND NOT suspended
        ORDER BY deadline
        LIMIT 1000
    )
    UNION ALL
    SELECT namespace, instance, id FROM perdure.run
    WHERE owner = ANY (ARRAY(SELECT owner FROM gone)) AND state = 1 AND deadline <= now() AND NOT suspended
) r ON true
WHERE w.id = :worker::bigint AND w.epoch = :epoch::bigint AND w.expires_at > clock_timestamp();

-- name: adopt
WITH adopted AS (
    UPDATE perdure.run SET key = :key::text WHERE id = :run::bigint RETURNING id
)
INSERT INTO perdure.status_change (run_id) SELECT id FROM adopted RETURNING run_id;

-- name: resume
WITH target AS MATERIALIZED (
    SELECT id, key, queue FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL AND (state = 3) IS TRUE
      AND id = coalesce(:run::bigint, id)
    FOR NO KEY UPDATE
), freed AS (
    UPDATE perdure.run r
    SET state = 0, hold_reason = NULL, hold_message = NULL, held_builds = NULL, takeovers = 0
    FROM target
    WHERE r.id = ANY (ARRAY[target.id])
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM target WHERE key IS NOT NULL
)
SELECT id, queue, key IS NOT NULL FROM target;

-- name: resumed
SELECT id, queue, key IS NOT NULL FROM perdure.run
WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL AND state <> 3
  AND id = coalesce(:run::bigint, id);

-- name: suspend
-- Sets the wish, or takes it back. A run that is asked to cancel goes on, so that it can.
WITH target AS MATERIALIZED (
    SELECT id, key, owner, queue, suspended FROM perdure.run
    WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL
      AND id = coalesce(:run::bigint, id) AND NOT (cancel_requested AND :suspended::boolean)
    FOR NO KEY UPDATE
), told AS (
    UPDATE perdure.run r SET suspended = :suspended::boolean
    FROM target
    WHERE r.id = ANY (ARRAY[target.id]) AND target.suspended <> :suspended::boolean
    RETURNING r.id
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT told.id FROM told JOIN target USING (id) WHERE target.key IS NOT NULL
)
SELECT id, owner, queue, key IS NOT NULL FROM target;

-- name: notify
SELECT count(pg_notify(channel, payload)) FROM unnest(:channels::text[], :payloads::text[]) AS p (channel, payload);
