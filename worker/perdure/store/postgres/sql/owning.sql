-- What owners do with runs: take them, record their turns, let them go. Every statement carries the fence.

-- name: claim
-- Takes runs and reads all that belongs to them in the same round trip. Nothing is locked on the worker's row unless
-- there is something to take, so that looking costs no write.
--
-- The runs are locked in their newest version, but history and inbox are read in the older snapshot of the statement.
-- Whoever changed them in between changed the run's mail or its number of claims too, so a row whose snapshot version
-- has other numbers is not fresh, and the caller asks again (again, limit 0), in a snapshot that shows everything.
-- The same branch finds the runs of a claim whose answer was lost, by the tag of the claim.
--
-- The answer brings whole histories: no further run is taken once those before it have :enough bytes, so that a worker
-- has room for them, whatever its runs have recorded. Those that are left are free again at the end of the statement.
-- A run of more than :most bytes, which a row of an answer could hardly have, comes without them, and is held.
--
-- A run that two owners in a row did not survive is taken alone and before others, so that it is known which run it was
-- when a third one vanishes, and no other run goes down with it. After the fifth it is not taken any more.
WITH me AS MATERIALIZED (
    SELECT id, namespace, build, queues, workflows FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
), suspect AS MATERIALIZED (
    SELECT found.id, found.mail
    FROM me CROSS JOIN unnest(me.queues) AS q (queue) CROSS JOIN LATERAL (
        SELECT r.id, r.mail FROM perdure.run r
        WHERE r.namespace = me.namespace AND r.queue = q.queue AND r.state = 0 AND r.takeovers >= 2 AND r.takeovers < 5
          AND NOT r.suspended AND r.workflow = ANY (me.workflows) AND (r.build IS NULL OR r.build = me.build)
        ORDER BY r.id
        LIMIT least(:limit::integer, 1)
        FOR NO KEY UPDATE SKIP LOCKED
    ) found
    ORDER BY found.id
    LIMIT least(:limit::integer, 1)
), due AS MATERIALIZED (
    SELECT found.id, found.mail
    FROM me CROSS JOIN unnest(me.queues) AS q (queue) CROSS JOIN LATERAL (
        SELECT r.id, r.mail, r.wake_at FROM perdure.run r
        WHERE r.namespace = me.namespace AND r.queue = q.queue AND r.state = 2 AND r.wake_at <= now()
          AND NOT r.suspended AND r.workflow = ANY (me.workflows) AND (r.build IS NULL OR r.build = me.build)
        ORDER BY r.wake_at
        LIMIT CASE WHEN EXISTS (SELECT FROM suspect) THEN 0 ELSE :limit::integer END
        FOR NO KEY UPDATE SKIP LOCKED
    ) found
    ORDER BY found.wake_at, found.id
    LIMIT :limit::integer
), ready AS MATERIALIZED (
    SELECT found.id, found.mail
    FROM me CROSS JOIN unnest(me.queues) AS q (queue) CROSS JOIN LATERAL (
        SELECT r.id, r.mail, r.priority FROM perdure.run r
        WHERE r.namespace = me.namespace AND r.queue = q.queue AND r.state = 0 AND r.takeovers < 2
          AND NOT r.suspended AND r.workflow = ANY (me.workflows) AND (r.build IS NULL OR r.build = me.build)
        ORDER BY r.priority DESC, r.id
        LIMIT CASE
            WHEN EXISTS (SELECT FROM suspect) THEN 0 ELSE :limit::integer - (SELECT count(*) FROM due)
        END
        FOR NO KEY UPDATE SKIP LOCKED
    ) found
    ORDER BY found.priority DESC, found.id
    LIMIT :limit::integer - (SELECT count(*) FROM due)
), chosen AS MATERIALIZED (
    SELECT id, mail FROM suspect UNION ALL SELECT id, mail FROM due UNION ALL SELECT id, mail FROM ready
), weighed AS MATERIALIZED (
    SELECT id, bytes, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) - bytes AS before
    FROM chosen CROSS JOIN LATERAL (
        SELECT (SELECT coalesce(sum(length(events)), 0) FROM perdure.history WHERE run_id = chosen.id)
             + (SELECT coalesce(sum(length(data)), 0) FROM perdure.payload WHERE run_id = chosen.id)
             + (SELECT coalesce(sum(length(body)), 0) FROM perdure.inbox WHERE run_id = chosen.id AND chosen.mail > 0)
               AS bytes
        -- Keeps each use of the number from being a look of its own.
        OFFSET 0
    ) weight
), fence AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND EXISTS (SELECT FROM chosen)
    FOR KEY SHARE
), claimed AS (
    UPDATE perdure.run r
    SET state = 1, owner = fence.id, claim = :claim::bigint, claims = r.claims + 1, claimed_at = now(),
        wake_at = NULL, started_at = CASE WHEN r.claims = 0 THEN now() ELSE r.started_at END
    FROM weighed CROSS JOIN fence
    WHERE r.id = ANY (ARRAY[weighed.id]) AND weighed.before < :enough::bigint
    RETURNING r.id, r.instance, r.workflow, r.queue, r.priority, r.key, r.claims, r.mail, r.beats, r.created_at,
        r.deadline, r.takeovers >= 2 AS suspect, weighed.bytes
), started AS (
    INSERT INTO perdure.status_change (run_id)
    SELECT id FROM claimed WHERE claims = 1 AND key IS NOT NULL
    RETURNING run_id
), taken AS (
    SELECT c.id, c.instance, c.workflow, c.queue, c.priority, c.mail, c.claims, c.beats, c.created_at, c.deadline,
           c.suspect, c.bytes, seen.mail = c.mail AND seen.claims + 1 = c.claims AS fresh
    FROM claimed c JOIN perdure.run seen ON seen.id = ANY (ARRAY[c.id])
    UNION ALL
    SELECT r.id, r.instance, r.workflow, r.queue, r.priority, r.mail, r.claims, r.beats, r.created_at, r.deadline,
           r.takeovers >= 2, weight.bytes, true
    FROM me CROSS JOIN LATERAL (SELECT * FROM perdure.run WHERE owner = me.id AND state = 1 OFFSET 0) r
    CROSS JOIN LATERAL (
        SELECT (SELECT coalesce(sum(length(events)), 0) FROM perdure.history WHERE run_id = r.id)
             + (SELECT coalesce(sum(length(data)), 0) FROM perdure.payload WHERE run_id = r.id)
             + (SELECT coalesce(sum(length(body)), 0) FROM perdure.inbox WHERE run_id = r.id) AS bytes
    ) weight
    WHERE :again::boolean AND r.claim = :claim::bigint
)
SELECT t.id, t.instance, t.workflow, t.queue, t.priority, t.mail,
       (extract(epoch FROM t.created_at) * 1000000)::bigint, (extract(epoch FROM t.deadline) * 1000000)::bigint,
       EXISTS (SELECT FROM started),
       h.seqs, h.events, p.seqs, p.data, i.numbers, i.bodies, k.seqs, t.bytes, t.suspect, b.seqs, b.details,
       EXISTS (SELECT FROM weighed WHERE before >= :enough), t.claims, t.fresh
FROM me
LEFT JOIN taken t ON true
LEFT JOIN LATERAL (
    SELECT array_agg(seq ORDER BY seq) AS seqs, array_agg(events ORDER BY seq) AS events
    FROM perdure.history WHERE run_id = t.id AND t.bytes <= :most::bigint
) h ON true
LEFT JOIN LATERAL (
    SELECT array_agg(seq ORDER BY seq, ordinal) AS seqs, array_agg(data ORDER BY seq, ordinal) AS data
    FROM perdure.payload WHERE run_id = t.id AND t.bytes <= :most::bigint
) p ON true
LEFT JOIN LATERAL (
    SELECT array_agg(number ORDER BY number) AS numbers, array_agg(body ORDER BY number) AS bodies
    FROM perdure.inbox WHERE run_id = t.id AND t.mail > 0 AND t.bytes <= :most::bigint
) i ON true
LEFT JOIN LATERAL (
    SELECT array_agg(seq ORDER BY seq) AS seqs FROM perdure.task WHERE run_id = t.id AND t.claims > 1
) k ON true
LEFT JOIN LATERAL (
    SELECT array_agg(seq ORDER BY seq) AS seqs, array_agg(details ORDER BY seq) AS details
    FROM perdure.heartbeat WHERE run_id = t.id AND t.beats
) b ON true;

-- name: claim_announced
-- What "claim" and "flush_turns" do, for one run that nobody has had yet, and of which the caller knows turn 0: from a
-- hint, which may have made it up, so that it is compared.
WITH fence AS MATERIALIZED (
    SELECT id, namespace, build, queues, workflows FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), told AS MATERIALIZED (
    SELECT FROM perdure.history h JOIN perdure.run r ON r.id = h.run_id
    WHERE h.run_id = :run::bigint AND h.seq = 0 AND h.events = :first::bytea
      AND r.instance = :instance::text AND r.workflow = :workflow::text AND r.queue = :queue::text
      AND r.deadline IS NOT DISTINCT FROM timestamptz 'epoch' + :deadline::bigint * interval '1 microsecond'
), claimed AS (
    UPDATE perdure.run r
    SET state = 1, owner = fence.id, claim = :claim::bigint, claims = 1, claimed_at = now(), started_at = now()
    FROM fence
    WHERE r.id = :run::bigint AND (r.state = 0 AND NOT r.suspended) IS TRUE AND r.claims = 0 AND r.mail = 0
      AND r.namespace = fence.namespace AND r.queue = ANY (fence.queues) AND r.workflow = ANY (fence.workflows)
      AND (r.build IS NULL OR r.build = fence.build)
      AND EXISTS (SELECT FROM told)
    RETURNING r.id, r.key
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events) SELECT id, 1, :turn::bytea FROM claimed
), started AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM claimed WHERE key IS NOT NULL RETURNING run_id
)
SELECT EXISTS (SELECT FROM claimed), EXISTS (SELECT FROM told), EXISTS (SELECT FROM started) FROM fence;

-- name: flush_turns
-- What "flush" does, for commits that are a turn and perhaps a close and nothing else: most of them. Half the work of the
-- long statement. One that is there already makes it fail as a whole; then, and when a run is not ours any more or has
-- mail that its last turn did not know of, the caller asks again with the long one.
-- A run that closes is not locked before its row changes: the record of a lock is as long as that of a turn. So it may
-- come out of order, and wait for a delivery that has locked it and waits for another run of this batch: the server finds
-- out after a second, ends one of the two, and its lane repeats it.
WITH fence AS MATERIALIZED (
    SELECT id, (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint AS server FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), mine AS MATERIALIZED (
    SELECT a.*, fence.id AS worker
    FROM fence CROSS JOIN unnest(
        :runs::bigint[], :seqs::integer[], :turns::bytea[], :endings::integer[], :mails::integer[], :outcomes::bytea[]
    ) AS a (run_id, seq, events, ending, mail, outcome)
    JOIN perdure.run r ON r.id = ANY (ARRAY[a.run_id])
    WHERE r.owner = fence.id AND fence.server = :server::bigint
), closed AS (
    UPDATE perdure.run r
    SET state = mine.ending, closed_at = now(), owner = NULL, wake_at = NULL,
        waiting_for = NULL, hold_reason = NULL, hold_message = NULL, outcome = mine.outcome
    FROM mine
    WHERE mine.ending IS NOT NULL AND r.id = ANY (ARRAY[mine.run_id]) AND r.owner = mine.worker
      AND r.mail = coalesce(mine.mail, r.mail)
    RETURNING r.id, r.key IS NOT NULL AS changed, r.beats
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT run_id, seq, events FROM mine WHERE ending IS NULL OR (run_id IN (SELECT id FROM closed)) IS TRUE
    RETURNING run_id
), abandoned AS (
    DELETE FROM perdure.task WHERE run_id = ANY (ARRAY(SELECT id FROM closed))
), read AS (
    DELETE FROM perdure.inbox WHERE run_id = ANY (ARRAY(SELECT id FROM closed))
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM closed WHERE changed RETURNING run_id
)
SELECT (SELECT count(*) FROM recorded), EXISTS (SELECT FROM changed),
       CASE WHEN :hint::text IS NOT NULL THEN pg_notify(:channel::text, :hint)::text END,
       (SELECT perdure.silence(array_agg(id)) FROM closed WHERE beats), fence.server
FROM fence;

-- name: turn_one
-- What "flush_turns" does, for one turn that is written alone and is not the last: no array to unfold, and only the
-- tables that it needs. After a pause, when nothing of it is in a cache, it takes two thirds of the time.
WITH fence AS MATERIALIZED (
    SELECT id, (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint AS server FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT r.id, :seq::integer, :turn::bytea
    FROM fence JOIN perdure.run r ON r.id = :run::bigint AND r.owner = fence.id
    WHERE fence.server = :server::bigint
    RETURNING run_id
)
SELECT (SELECT count(*) FROM recorded), false, fence.server FROM fence;

-- name: close_one
-- The same for the last turn of a run.
WITH fence AS MATERIALIZED (
    SELECT id, (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint AS server FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), closed AS (
    UPDATE perdure.run r
    SET state = :ending::integer, closed_at = now(), owner = NULL, wake_at = NULL,
        waiting_for = NULL, hold_reason = NULL, hold_message = NULL, outcome = :outcome::bytea
    FROM fence
    WHERE r.id = :run::bigint AND r.owner = fence.id AND fence.server = :server::bigint
      AND r.mail = coalesce(:mail::integer, r.mail)
    RETURNING r.id, r.key IS NOT NULL AS changed, r.beats, r.mail
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events) SELECT id, :seq::integer, :turn::bytea FROM closed
), abandoned AS (
    DELETE FROM perdure.task WHERE run_id = (SELECT id FROM closed)
), read AS (
    DELETE FROM perdure.inbox WHERE run_id = (SELECT id FROM closed WHERE mail > 0)
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM closed WHERE changed RETURNING run_id
)
SELECT (SELECT count(*) FROM closed), EXISTS (SELECT FROM changed),
       CASE WHEN :hint::text IS NOT NULL THEN pg_notify(:channel::text, :hint)::text END,
       (SELECT CASE WHEN beats THEN perdure.silence(ARRAY[id]) END FROM closed),
       fence.server
FROM fence;

-- name: flush
-- Many runs, one commit. The order that keeps it from deadlocks: the worker's row, the rows of runs that change (by
-- their numbers, as the caller sorts them), their turns, everything else. What brings no turn locks its run, too: two
-- turns would meet at their place in the history, but tasks alone could go to a run that somebody terminates.
-- A run closes only if its last turn knew of all mail, and otherwise nothing of that turn is recorded: whoever sends a
-- message that is accepted can rely on it that the run's code has had a chance to read it.
-- A turn that is there already takes nothing else of its commit with it. ON CONFLICT would find it too, but write a
-- confirmation for every turn; a turn that appears between the look and the insert (somebody terminates the run) makes
-- the statement fail as a whole, and the caller repeats it.
-- Nothing is carried out on a server that was started at another moment than the caller knows (see "remembers").
-- Whoever gives a run up says which claim is meant. Repeated after a lost answer, the same words could take the run from
-- the worker's next claim, which would go on without owning it.
-- Written as (x IN (SELECT …)) IS TRUE where a hashed look-up is wanted, because a join would be a nested loop.
WITH fence AS MATERIALIZED (
    SELECT id, namespace, build, (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint AS server
    FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), asked AS MATERIALIZED (
    SELECT * FROM unnest(
        :runs::bigint[], :seqs::integer[], :turns::bytea[], :consumed::integer[],
        :endings::integer[], :mails::integer[], :wake_ats::bigint[], :reasons::text[], :messages::text[],
        :outcomes::bytea[], :statuses::text[], :progresses::text[], :claims::integer[]
    ) WITH ORDINALITY AS a (
        run_id, seq, events, consumed, ending, mail, wake_at, reason, message, outcome, status, progress, claim, place
    )
), locked AS MATERIALIZED (
    SELECT a.*, r.mail AS has_mail, r.waiting_for AS waited_for
    FROM fence CROSS JOIN (
        SELECT * FROM asked WHERE ending IS NOT NULL OR status IS NOT NULL OR seq IS NULL ORDER BY run_id
    ) a CROSS JOIN LATERAL (
        SELECT mail, waiting_for FROM perdure.run
        WHERE id = a.run_id AND owner = fence.id AND claims = coalesce(a.claim, claims)
        FOR NO KEY UPDATE
    ) r
    WHERE fence.server = :server::bigint
), mine AS MATERIALIZED (
    SELECT * FROM locked WHERE (ending >= 10 AND mail <> has_mail) IS NOT TRUE
    UNION ALL
    SELECT a.*, NULL, NULL
    FROM fence CROSS JOIN asked a JOIN perdure.run r ON r.id = ANY (ARRAY[a.run_id])
    WHERE a.ending IS NULL AND a.status IS NULL AND a.seq IS NOT NULL AND r.owner = fence.id
      AND fence.server = :server::bigint
), recorded AS (
    INSERT INTO perdure.history (run_id, seq, events)
    SELECT run_id, seq, events FROM mine
    WHERE seq IS NOT NULL
      AND (SELECT true FROM perdure.history h WHERE h.run_id = mine.run_id AND h.seq = mine.seq) IS NULL
    RETURNING run_id
), done AS MATERIALIZED (
    SELECT mine.*, ending IS NOT NULL AND (mail = has_mail) IS NOT FALSE AS ends
    FROM mine
    WHERE seq IS NULL OR (run_id IN (SELECT run_id FROM recorded)) IS TRUE
), outside AS (
    INSERT INTO perdure.payload (run_id, seq, ordinal, data)
    SELECT * FROM unnest(
        :payload_runs::bigint[], :payload_seqs::integer[], :payload_ordinals::integer[], :payloads::bytea[]
    ) AS p (run_id, seq, ordinal, data)
    WHERE (p.run_id IN (SELECT run_id FROM recorded)) IS TRUE
), queued AS (
    INSERT INTO perdure.task (run_id, seq, namespace, queue, name, input, options, attempt, available_at)
    SELECT t.run_id, t.seq, fence.namespace, t.queue, t.name, t.input, t.options, t.attempt,
           now() + t.delay * interval '1 microsecond'
    FROM fence CROSS JOIN unnest(
        :task_runs::bigint[], :task_seqs::integer[], :task_queues::text[], :task_names::text[],
        :task_inputs::bytea[], :task_options::bytea[], :task_attempts::integer[], :task_delays::bigint[]
    ) AS t (run_id, seq, queue, name, input, options, attempt, delay)
    WHERE (t.run_id IN (SELECT run_id FROM done WHERE NOT ends OR ending < 10)) IS TRUE
    ON CONFLICT DO NOTHING
), dropped AS (
    DELETE FROM perdure.task t
    USING unnest(:dropped_runs::bigint[], :dropped_seqs::integer[]) AS d (run_id, seq)
    WHERE t.run_id = ANY (ARRAY[d.run_id]) AND t.seq = d.seq AND (d.run_id IN (SELECT run_id FROM done)) IS TRUE
      AND (d.run_id IN (SELECT run_id FROM done WHERE ends AND ending >= 10)) IS NOT TRUE
), abandoned AS (
    DELETE FROM perdure.task WHERE run_id = ANY (ARRAY(SELECT run_id FROM done WHERE ends AND ending >= 10))
), read AS (
    DELETE FROM perdure.inbox i USING done
    WHERE (done.consumed IS NOT NULL OR done.ends AND done.ending >= 10)
      AND i.run_id = ANY (ARRAY[done.run_id])
      AND (i.number <= done.consumed OR done.ends AND done.ending >= 10)
), touched AS (
    UPDATE perdure.run r
    SET state = CASE WHEN ends THEN ending ELSE r.state END,
        closed_at = CASE WHEN ends AND ending >= 10 THEN now() END,
        owner = CASE WHEN ends THEN NULL ELSE r.owner END,
        wake_at = CASE WHEN ends THEN timestamptz 'epoch' + done.wake_at * interval '1 microsecond' END,
        waiting_for = CASE
            WHEN ends AND ending = 2 THEN done.reason WHEN ends AND ending >= 10 THEN NULL ELSE r.waiting_for
        END,
        hold_reason = CASE WHEN ends AND ending = 3 THEN done.reason END,
        hold_message = CASE WHEN ends AND ending = 3 THEN done.message END,
        held_builds = CASE
            WHEN ends AND ending = 2 THEN NULL
            WHEN ends AND ending = 3 THEN array_append(array_remove(r.held_builds, fence.build), fence.build)
            ELSE r.held_builds
        END,
        outcome = CASE WHEN ends THEN done.outcome END,
        status_text = coalesce(done.status, r.status_text),
        progress = coalesce(done.progress, r.progress)
    FROM done CROSS JOIN fence
    WHERE r.id = ANY (ARRAY[done.run_id]) AND r.owner = fence.id AND (ends OR done.status IS NOT NULL)
    RETURNING r.id, r.queue,
        ends AND ending >= 10 AND r.beats AS beats,
        ends AND ending = 0 AS released,
        r.key IS NOT NULL AND (
            done.status IS NOT NULL OR ends AND (ending >= 3 OR r.waiting_for IS DISTINCT FROM done.waited_for)
        ) AS changed
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM touched WHERE changed RETURNING run_id
)
SELECT (SELECT array_agg(place) FROM asked WHERE place NOT IN (SELECT place FROM done)),
       (SELECT array_agg(place) FROM done WHERE ends),
       (SELECT array_agg(DISTINCT queue) FROM touched WHERE released),
       EXISTS (SELECT FROM changed),
       (SELECT perdure.silence(array_agg(id)) FROM touched WHERE beats), fence.server
FROM fence;

-- name: unrecorded
-- Why a flush left commits out: an earlier try of the same bytes was ours, or the run is not ours any more; if it is,
-- and there is no such turn, then it has mail that its last turn did not know of.
-- A commit without a turn took place earlier if its run is as its ending leaves it.
SELECT a.place,
       CASE WHEN a.seq IS NOT NULL THEN h.events = a.events AND NOT EXISTS (
                     SELECT FROM unnest(
                         :payload_runs::bigint[], :payload_seqs::integer[],
                         :payload_ordinals::integer[], :payloads::bytea[]
                     ) AS p (run_id, seq, ordinal, data)
                     WHERE p.run_id = a.run_id AND p.seq = a.seq AND p.data IS DISTINCT FROM (
                         SELECT data FROM perdure.payload
                         WHERE run_id = p.run_id AND seq = p.seq AND ordinal = p.ordinal
                     )
                 )
            ELSE r.state = a.ending
                 AND (a.ending <> 3 OR r.hold_reason = a.reason)
                 AND (a.ending < 10 OR r.outcome = a.outcome)
       END,
       r.owner = :worker::bigint AND r.claims = coalesce(a.claim, r.claims),
       h.seq IS NULL
FROM unnest(
    :runs::bigint[], :seqs::integer[], :turns::bytea[], :endings::integer[], :reasons::text[], :outcomes::bytea[],
    :claims::integer[]
) WITH ORDINALITY AS a (run_id, seq, events, ending, reason, outcome, claim, place)
LEFT JOIN perdure.run r ON r.id = ANY (ARRAY[a.run_id])
LEFT JOIN perdure.history h ON h.run_id = ANY (ARRAY[a.run_id]) AND h.seq = a.seq
WHERE a.place = ANY (:places::bigint[]);

-- name: inbox
-- What came while this worker owned the run; a closed run has one last message that says so. A run that is to be
-- suspended shows every time, without a message, until its owner lets it go. No further message comes along once those
-- before it have :enough bytes: they are there for the next look, when turns have consumed the ones before.
SELECT i.run_id, i.number, i.body, i.state >= 10
FROM perdure.worker w
LEFT JOIN LATERAL (
    SELECT run_id, number, body, state
    FROM (
        SELECT run_id, number, body, state,
               sum(length(body)) OVER (ORDER BY run_id, number ROWS UNBOUNDED PRECEDING) - length(body) AS before
        FROM (
            SELECT i.run_id, i.number, i.body, r.state
            FROM perdure.inbox i JOIN perdure.run r ON r.id = ANY (ARRAY[i.run_id])
            WHERE i.owner = w.id AND (r.owner = w.id OR r.state >= 10)
            -- Found by owner and sorted then: an index that has them in order would be read whole.
            OFFSET 0
        ) mine
    ) weighed
    WHERE before < :enough::bigint
    UNION ALL
    SELECT r.id, 0, NULL, r.state FROM perdure.run r WHERE r.owner = w.id AND r.state = 1 AND r.suspended
) i ON true
WHERE w.id = :worker::bigint AND w.epoch = :epoch::bigint AND w.expires_at > clock_timestamp()
ORDER BY i.run_id, i.number;

-- name: forget
-- The last messages of closed runs, once their owner has seen them or if they never had one.
DELETE FROM perdure.inbox i
USING unnest(:runs::bigint[], :numbers::integer[]) AS seen (run_id, number)
WHERE i.run_id = ANY (ARRAY[seen.run_id]) AND i.number = seen.number;

-- name: absolve
UPDATE perdure.run SET takeovers = 0 WHERE id = ANY (:runs::bigint[]) AND takeovers > 0;

-- name: owned
SELECT r.id FROM perdure.worker w LEFT JOIN perdure.run r ON r.owner = w.id AND r.state = 1
WHERE w.id = :worker::bigint AND w.epoch = :epoch::bigint AND w.expires_at > clock_timestamp();


-- name: remembers
-- Whether the server, which may have taken over from another one, has of these runs what their owner was told is there:
-- the last turn, and the last message that was read. And when it was started, by which the caller knows it from now on.
-- A server that has forgotten something may have forgotten runs as well, and would hand out their numbers again, which
-- are in the keys that activities give to the outside world: so some are left out.
WITH me AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
), known AS MATERIALIZED (
    SELECT NOT EXISTS (
        SELECT FROM unnest(:runs::bigint[], :seqs::integer[], :mails::integer[]) AS a (run_id, seq, mail)
        WHERE (SELECT true FROM perdure.history h WHERE h.run_id = a.run_id AND h.seq = a.seq) IS NULL
           OR (SELECT r.mail >= a.mail FROM perdure.run r WHERE r.id = a.run_id) IS NOT TRUE
    ) AS all_there
    FROM me
)
SELECT (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint, all_there,
       CASE WHEN NOT all_there THEN (SELECT max(nextval('perdure.run_id')) FROM generate_series(1, 10000)) END
FROM known;

-- name: wait_for_disk
-- What is confirmed stays: a role or database that does not wait for the disk would forget it in a crash.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';

-- name: give_up
-- Of two statements that are sent together the first takes its locks when it arrives. Should the second never do so,
-- the server gives both up after a while (it can from version 17 on).
SELECT set_config('transaction_timeout', :longest::text, false);

-- name: dismiss
-- Ends the server's process that a pooler lends us, if it takes no writes: one that began while the database took none
-- never will, and the pooler would go on lending it when the database does again.
SELECT pg_terminate_backend(pg_backend_pid()) WHERE current_setting('transaction_read_only')::boolean;
