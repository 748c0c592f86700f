-- Activities that go through the task table.

-- name: claim_tasks
WITH me AS MATERIALIZED (
    SELECT id, namespace, queues FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
), due AS MATERIALIZED (
    SELECT found.run_id, found.seq
    FROM me CROSS JOIN unnest(me.queues) AS q (queue) CROSS JOIN LATERAL (
        SELECT t.run_id, t.seq, t.available_at FROM perdure.task t
        WHERE t.namespace = me.namespace AND t.queue = q.queue AND t.owner IS NULL AND t.available_at <= now()
          AND t.name <> ALL (:passed_over::text[])
        ORDER BY t.available_at, t.run_id, t.seq
        LIMIT :limit::integer
        FOR NO KEY UPDATE SKIP LOCKED
    ) found
    ORDER BY found.available_at, found.run_id, found.seq
    LIMIT :limit::integer
), fence AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND EXISTS (SELECT FROM due)
    FOR KEY SHARE
), claimed AS (
    UPDATE perdure.task t
    SET owner = fence.id, claim = :claim::bigint
    FROM due CROSS JOIN fence
    WHERE t.run_id = ANY (ARRAY[due.run_id]) AND t.seq = due.seq
    RETURNING t.run_id, t.seq, t.queue, t.name, t.input, t.options, t.attempt, t.last_failure, t.available_at
), taken AS (
    SELECT * FROM claimed
    UNION ALL
    -- What an earlier try of this very claim took, if its answer was lost.
    SELECT t.run_id, t.seq, t.queue, t.name, t.input, t.options, t.attempt, t.last_failure, t.available_at
    FROM me CROSS JOIN LATERAL (SELECT * FROM perdure.task WHERE owner = me.id OFFSET 0) t
    WHERE :again::boolean AND t.claim = :claim::bigint
)
SELECT t.run_id, r.instance, t.seq, t.queue, t.name, t.input, t.options, t.attempt, t.last_failure,
       (SELECT details FROM perdure.heartbeat WHERE run_id = t.run_id AND seq = t.seq), true AS fresh
FROM me LEFT JOIN (taken t JOIN perdure.run r ON r.id = ANY (ARRAY[t.run_id])) ON true
ORDER BY t.available_at, t.run_id, t.seq;

-- name: owned_tasks
SELECT t.run_id, t.seq FROM perdure.worker w LEFT JOIN perdure.task t ON t.owner = w.id
WHERE w.id = :worker::bigint AND w.epoch = :epoch::bigint AND w.expires_at > clock_timestamp();

-- name: finish_tasks
-- Ends go to the inbox of their run, numbered by it like every message; failed attempts wait for their next one.
-- Runs are locked before their tasks, as in every flush. Written as (owner = …) IS TRUE because tasks are looked up by
-- their key here: a plan made while nobody had tasks would go through all that anybody has.
WITH fence AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), asked AS MATERIALIZED (
    SELECT * FROM unnest(:runs::bigint[], :seqs::integer[], :bodies::bytea[])
    WITH ORDINALITY AS a (run_id, seq, body, place)
), locked AS MATERIALIZED (
    SELECT r.id FROM fence CROSS JOIN (SELECT DISTINCT run_id FROM asked ORDER BY run_id) a
    CROSS JOIN LATERAL (SELECT id FROM perdure.run WHERE id = a.run_id FOR NO KEY UPDATE) r
), done AS (
    DELETE FROM perdure.task t USING fence, asked a
    WHERE t.run_id = ANY (ARRAY[a.run_id]) AND t.seq = a.seq AND (t.owner = fence.id) IS TRUE
      AND (a.run_id IN (SELECT id FROM locked)) IS TRUE
    RETURNING t.run_id, a.body, a.place
), mailed AS (
    UPDATE perdure.run r
    SET mail = r.mail + cardinality(d.bodies),
        state = CASE WHEN r.state = 2 THEN 0 ELSE r.state END,
        wake_at = NULL
    FROM (SELECT run_id, array_agg(body ORDER BY place) AS bodies FROM done GROUP BY run_id) d
    WHERE r.id = ANY (ARRAY[d.run_id])
    RETURNING r.id, r.mail - cardinality(d.bodies) AS before, d.bodies, r.owner, r.queue, r.state
), noted AS (
    INSERT INTO perdure.inbox (run_id, number, owner, body)
    SELECT m.id, m.before + d.place, m.owner, d.body
    FROM mailed m CROSS JOIN unnest(m.bodies) WITH ORDINALITY AS d (body, place)
), later AS (
    UPDATE perdure.task t
    SET owner = NULL, attempt = a.attempt, last_failure = a.failure,
        available_at = now() + a.delay * interval '1 microsecond'
    FROM fence, unnest(
        :retry_runs::bigint[], :retry_seqs::integer[], :attempts::integer[], :delays::bigint[], :failures::bytea[]
    ) AS a (run_id, seq, attempt, delay, failure)
    WHERE t.run_id = ANY (ARRAY[a.run_id]) AND t.seq = a.seq AND (t.owner = fence.id) IS TRUE
    RETURNING t.queue, a.delay
)
SELECT (SELECT array_agg(DISTINCT owner) FROM mailed WHERE owner IS NOT NULL),
       (SELECT array_agg(DISTINCT queue) FROM mailed WHERE owner IS NULL AND state = 0),
       (SELECT array_agg(DISTINCT queue) FROM later WHERE delay = 0)
FROM fence;

-- name: heartbeat
-- Details of attempts under way: of runs that are the worker's, or of tasks that it has. The lock keeps the run from
-- closing meanwhile, and the mark tells whoever closes it to remove them.
WITH fence AS MATERIALIZED (
    SELECT id FROM perdure.worker
    WHERE id = :worker::bigint AND epoch = :epoch::bigint AND expires_at > clock_timestamp()
    FOR KEY SHARE
), asked AS MATERIALIZED (
    SELECT * FROM unnest(:runs::bigint[], :seqs::integer[], :details::bytea[]) AS a (run_id, seq, details)
), locked AS MATERIALIZED (
    SELECT r.id, r.owner FROM fence CROSS JOIN (SELECT DISTINCT run_id FROM asked ORDER BY run_id) a
    CROSS JOIN LATERAL (
        SELECT id, owner FROM perdure.run WHERE id = a.run_id AND (closed_at IS NULL) IS TRUE FOR NO KEY UPDATE
    ) r
), kept AS (
    INSERT INTO perdure.heartbeat (run_id, seq, details)
    SELECT a.run_id, a.seq, a.details
    FROM fence CROSS JOIN asked a JOIN locked ON locked.id = a.run_id
    WHERE locked.owner = fence.id
       OR fence.id = (SELECT owner FROM perdure.task WHERE run_id = a.run_id AND seq = a.seq)
    ON CONFLICT (run_id, seq) DO UPDATE SET details = excluded.details
    RETURNING run_id
), marked AS (
    UPDATE perdure.run r SET beats = true
    FROM (SELECT DISTINCT run_id FROM kept) k
    WHERE r.id = ANY (ARRAY[k.run_id]) AND r.beats IS NOT TRUE
)
SELECT id FROM fence;
