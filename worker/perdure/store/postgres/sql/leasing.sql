-- Workers and their leases. Only the database's clock counts.

-- name: register
INSERT INTO perdure.worker (epoch, namespace, name, build, queues, workflows, lease, expires_at)
VALUES (
    :epoch::bigint, :namespace::text, :name::text, :build::text, :queues::text[], :workflows::text[],
    :lease::bigint * interval '1 microsecond',
    clock_timestamp() + :lease::bigint * interval '1 microsecond'
)
RETURNING id, (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint,
    (SELECT i.id FROM perdure.installation i);

-- name: renew
-- One heartbeat, and the end of workers that missed theirs. A flush in flight holds KEY SHARE on its worker's row; the
-- reaper skips such a row instead of waiting, and comes back with the next heartbeat.
WITH me AS (
    UPDATE perdure.worker SET expires_at = clock_timestamp() + lease
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    RETURNING id, namespace
), gone AS (
    DELETE FROM perdure.worker
    WHERE id IN (
        SELECT w.id FROM me JOIN perdure.worker w ON w.namespace = me.namespace AND w.id <> me.id
        WHERE w.expires_at <= clock_timestamp()
        FOR UPDATE OF w SKIP LOCKED
    )
    RETURNING id
), last_notes AS (
    DELETE FROM perdure.inbox i
    WHERE i.owner = ANY (ARRAY(SELECT id FROM gone))
      AND (SELECT r.state FROM perdure.run r WHERE r.id = i.run_id) >= 10
)
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, EXISTS (SELECT FROM gone),
       (date_part('epoch', pg_postmaster_start_time()) * 1000)::bigint
FROM me;

-- name: named
SELECT id FROM perdure.worker WHERE namespace = :namespace::text AND name = :name::text;

-- name: fleets
-- The workers that there are, those together that have the same code and serve the same queues.
SELECT queues, array_agg(id) FROM perdure.worker WHERE expires_at > clock_timestamp()
GROUP BY namespace, build, workflows, queues;

-- name: expel
-- The end of a worker that resigns, or of workers that somebody saw die, and what they had is free again.
-- Removing the row waits for a flush in flight. A claim in flight may leave runs behind: recover finds those, as it does
-- all runs of a worker that died, to count its end.
WITH gone AS (
    DELETE FROM perdure.worker
    WHERE (id = :worker::bigint AND epoch = :epoch::bigint) OR id = ANY (:dead::bigint[])
    RETURNING id
), owned AS MATERIALIZED (
    -- Found apart from being locked: PostgreSQL 15 and 16 may go through all runs in their order otherwise.
    SELECT id FROM perdure.run
    WHERE id = ANY (ARRAY(
        SELECT id FROM perdure.run
        WHERE owner = ANY (ARRAY(SELECT id FROM gone)) AND state = 1 AND :worker::bigint IS NOT NULL
    )) AND owner = ANY (ARRAY(SELECT id FROM gone)) AND state = 1
    ORDER BY id
    FOR NO KEY UPDATE
), freed AS (
    UPDATE perdure.run r SET state = 0, owner = NULL FROM owned WHERE r.id = ANY (ARRAY[owned.id]) RETURNING r.queue
), tasks AS (
    UPDATE perdure.task t SET owner = NULL WHERE t.owner = ANY (ARRAY(SELECT id FROM gone)) RETURNING t.queue
), last_notes AS (
    DELETE FROM perdure.inbox i
    WHERE i.owner = ANY (ARRAY(SELECT id FROM gone))
      AND (SELECT r.state FROM perdure.run r WHERE r.id = i.run_id) >= 10
)
SELECT array_agg(DISTINCT queue) FROM (SELECT queue FROM freed UNION ALL SELECT queue FROM tasks) q;

-- name: recover
-- The owners that are gone are those of this statement's snapshot: a run that was freed and claimed by a newer worker
-- meanwhile has another owner, which the re-check under the row's lock sees.
--
-- What ends its workers must not do so for ever. Each orphan counts how often in a row its owner vanished while nothing
-- was recorded. All that a worker had count until they are suspects (2, see claim), then only the one that was claimed
-- last, for suspects are claimed one by one. At 5 the run is held, for every build that would take it and finds it so. That
-- nobody knew its workflow for a while, because the only worker that does had just vanished, does not clear it.
WITH me AS MATERIALIZED (
    SELECT build, queues, workflows FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
), gone AS MATERIALIZED (
    SELECT owner FROM (
        (SELECT owner FROM perdure.run WHERE state = 1 UNION SELECT owner FROM perdure.task WHERE owner IS NOT NULL)
        EXCEPT SELECT id FROM perdure.worker
    ) o
    WHERE :unleased::boolean OR EXISTS (SELECT FROM me)
), orphans AS MATERIALIZED (
    SELECT r.id, r.owner, r.takeovers, r.taken_turn, r.claimed_at,
           EXISTS (
               SELECT FROM me
               WHERE r.queue = ANY (me.queues) AND r.workflow = ANY (me.workflows)
                 AND (r.build IS NULL OR r.build = me.build)
           ) AS known
    FROM perdure.run r
    -- As in "expel": found by their owner, locked by their numbers.
    WHERE r.id = ANY (ARRAY(
        SELECT id FROM perdure.run
        WHERE owner = ANY (ARRAY(SELECT owner FROM gone)) AND state = 1 AND namespace = :namespace::text
    )) AND r.owner = ANY (ARRAY(SELECT owner FROM gone)) AND r.state = 1
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
), standing AS (
    SELECT o.*, last.seq AS turn, last.seq IS NOT DISTINCT FROM o.taken_turn AS stands
    FROM orphans o CROSS JOIN LATERAL (SELECT max(seq) AS seq FROM perdure.history h WHERE h.run_id = o.id) last
), counted AS (
    SELECT id, turn, known,
           CASE
               WHEN NOT stands THEN 1
               WHEN takeovers < 2 THEN takeovers + 1
               WHEN row_number() OVER (
                   PARTITION BY owner, stands AND takeovers >= 2 ORDER BY claimed_at DESC NULLS LAST, id DESC
               ) = 1 THEN takeovers + 1
               ELSE takeovers
           END AS takeovers
    FROM standing
), poison AS MATERIALIZED (
    SELECT r.id, r.takeovers
    FROM me JOIN perdure.run r ON r.queue = ANY (me.queues) AND r.workflow = ANY (me.workflows)
    WHERE r.namespace = :namespace::text AND r.state = 0 AND r.takeovers >= 5
      AND (r.build IS NULL OR r.build = me.build)
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
), held AS MATERIALIZED (
    SELECT r.id, CASE WHEN r.hold_reason IN (:unknown::text, :absent::text) THEN r.takeovers ELSE 0 END AS takeovers
    FROM me JOIN perdure.run r ON r.queue = ANY (me.queues) AND r.workflow = ANY (me.workflows)
    WHERE r.namespace = :namespace::text AND r.state = 3
      AND (r.build IS NULL OR r.build = me.build)
      AND (r.hold_reason IN (:unknown::text, :absent::text) OR (me.build = ANY (r.held_builds)) IS NOT TRUE)
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
), freed AS (
    UPDATE perdure.run r
    SET state = CASE WHEN f.held THEN 3 ELSE 0 END, owner = NULL, takeovers = f.takeovers,
        taken_turn = coalesce(f.turn, r.taken_turn),
        hold_reason = CASE WHEN f.held THEN :poison::text END,
        hold_message = CASE WHEN f.held THEN replace(:poison_message::text, '{instance}', r.instance) END,
        held_builds = CASE
            WHEN f.held THEN array_append(array_remove(r.held_builds, f.build), f.build) ELSE r.held_builds
        END
    FROM (
        SELECT u.*, me.build, u.takeovers >= 5 AND u.known AS held
        FROM (
            SELECT id, false AS visible, takeovers, turn, known FROM counted
            UNION ALL SELECT id, false, takeovers, NULL, true FROM poison
            UNION ALL SELECT id, true, takeovers, NULL, true FROM held
        ) u LEFT JOIN me ON true
    ) f
    WHERE r.id = ANY (ARRAY[f.id])
    RETURNING r.id, r.queue, r.key, r.key IS NOT NULL AND (f.visible OR f.held) AS changed, f.held
), tasks AS (
    UPDATE perdure.task t SET owner = NULL
    WHERE t.owner = ANY (ARRAY(SELECT owner FROM gone)) AND t.namespace = :namespace::text
    RETURNING t.queue
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM freed WHERE changed RETURNING run_id
)
SELECT EXISTS (SELECT FROM me),
       (SELECT count(*) FROM freed WHERE NOT held),
       (SELECT array_agg(DISTINCT queue) FROM (
           SELECT queue FROM freed WHERE NOT held UNION ALL SELECT queue FROM tasks
       ) q),
       EXISTS (SELECT FROM changed),
       (SELECT array_agg(key ORDER BY id) FROM freed WHERE :unleased::boolean AND key IS NOT NULL);

-- name: workers
SELECT id, name, build FROM perdure.worker
WHERE namespace = :namespace::text AND expires_at > clock_timestamp()
ORDER BY id;

-- name: pollers
SELECT DISTINCT w.namespace, q.queue, w.build
FROM perdure.worker w CROSS JOIN unnest(w.queues) AS q (queue)
WHERE w.expires_at > clock_timestamp();

-- name: hold_unknown
-- No index tells which workflows wait, so of each queue a thousand runs are read from either end: those that would be
-- claimed first, where what nobody takes comes to stand, and those that came last. What is in the midst of a backlog of
-- others is found when they have gone.
WITH me AS MATERIALIZED (
    SELECT namespace, queues FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
), waiting AS MATERIALIZED (
    SELECT found.*, q.queue, me.namespace
    FROM me CROSS JOIN unnest(me.queues) AS q (queue) CROSS JOIN LATERAL (
        (
            SELECT id, workflow, build FROM perdure.run
            WHERE namespace = me.namespace AND queue = q.queue AND state = 0 AND NOT suspended
            ORDER BY priority DESC, id
            LIMIT 1000
        )
        UNION ALL
        (
            SELECT id, workflow, build FROM perdure.run
            WHERE namespace = me.namespace AND queue = q.queue AND state = 0 AND NOT suspended
            ORDER BY priority, id DESC
            LIMIT 1000
        )
    ) found
), unknown AS MATERIALIZED (
    SELECT kind.* FROM (SELECT DISTINCT namespace, queue, workflow, build FROM waiting) kind
    WHERE NOT EXISTS (
        SELECT FROM perdure.worker w
        WHERE w.namespace = kind.namespace AND w.expires_at > clock_timestamp()
          AND kind.queue = ANY (w.queues) AND kind.workflow = ANY (w.workflows)
          AND (kind.build IS NULL OR kind.build = w.build)
    )
), strange AS MATERIALIZED (
    SELECT r.id
    FROM (
        SELECT DISTINCT w.id FROM waiting w JOIN unknown u USING (queue, workflow)
        WHERE w.build IS NOT DISTINCT FROM u.build
        ORDER BY w.id
    ) s CROSS JOIN LATERAL (
        SELECT id FROM perdure.run WHERE id = s.id AND (state = 0 AND NOT suspended) IS TRUE
        FOR NO KEY UPDATE SKIP LOCKED
    ) r
), held AS (
    UPDATE perdure.run r
    SET state = 3, hold_reason = CASE WHEN r.build IS NULL THEN :unknown::text ELSE :absent::text END,
        hold_message = replace(
            replace(
                replace(
                    CASE WHEN r.build IS NULL THEN :unknown_message::text ELSE :absent_message::text END,
                    '{queue}', r.queue
                ),
                '{workflow}', r.workflow
            ),
            '{build}', coalesce(r.build, '')
        )
    FROM strange WHERE r.id = ANY (ARRAY[strange.id])
    RETURNING r.id, r.key
), changed AS (
    INSERT INTO perdure.status_change (run_id) SELECT id FROM held WHERE key IS NOT NULL RETURNING run_id
)
SELECT EXISTS (SELECT FROM me), (SELECT count(*) FROM held), EXISTS (SELECT FROM changed);
