-- Everything of the first release. Expand only: later files add, and take away no sooner than a release after.
-- No foreign keys: each would lock a parent row on the hot path; the fence of every flush does their work.

CREATE TABLE perdure.worker (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch         bigint NOT NULL,
    namespace     text NOT NULL,
    name          text NOT NULL,
    build         text NOT NULL,
    queues        text[] NOT NULL,
    workflows     text[] NOT NULL,
    lease         interval NOT NULL,
    expires_at    timestamptz NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE perdure.worker IS 'Who may own runs. A heartbeat updates one row in place; removing the row fences the worker.';

-- Drawn by the statement that starts runs, which needs the number in more than one place.
CREATE SEQUENCE perdure.run_id;

-- What changes when a run closes stands at the end, and half of a page is left free: the log has the difference of two
-- versions that begin alike and share a page.
CREATE TABLE perdure.run (
    id               bigint PRIMARY KEY,
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- NULL with claims above 0: as it was created.
    started_at       timestamptz,
    deadline         timestamptz,
    -- The number of claims so far, and the tag of the last one, by which a claim whose answer was lost finds its runs.
    claim            bigint,
    claims           integer NOT NULL DEFAULT 0,
    claimed_at       timestamptz,
    -- How often in a row the owner vanished, and the last turn that was recorded then: see the statement "recover".
    takeovers        smallint NOT NULL DEFAULT 0,
    taken_turn       integer,
    mail             integer NOT NULL DEFAULT 0,
    priority         integer NOT NULL DEFAULT 0,
    cancel_requested boolean NOT NULL DEFAULT false,
    suspended        boolean NOT NULL DEFAULT false,
    namespace        text NOT NULL,
    instance         text NOT NULL,
    workflow         text NOT NULL,
    queue            text NOT NULL,
    key              text,
    -- The only build whose workers may take it; NULL: every one.
    build            text,
    status_text      text,
    progress         text,
    state            smallint NOT NULL DEFAULT 0,
    owner            bigint,
    closed_at        timestamptz,
    wake_at          timestamptz,
    waiting_for      text,
    hold_reason      text,
    hold_message     text,
    held_builds      text[],
    outcome          bytea
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
ALTER SEQUENCE perdure.run_id OWNED BY perdure.run.id;
COMMENT ON TABLE perdure.run IS 'state: 0 ready, 1 owned, 2 parked, 3 held, 10 completed, 11 failed, 12 cancelled, 13 terminated, 14 timed out';

CREATE UNIQUE INDEX run_open ON perdure.run (namespace, instance) WHERE closed_at IS NULL;
CREATE INDEX run_closed ON perdure.run (hashtext(instance)) WHERE closed_at IS NOT NULL;
CREATE UNIQUE INDEX run_key ON perdure.run (key) WHERE key IS NOT NULL;
CREATE INDEX run_ready ON perdure.run (namespace, queue, priority DESC, id) WHERE state = 0 AND NOT suspended;
CREATE INDEX run_suspect ON perdure.run (namespace, queue, id) WHERE state = 0 AND takeovers >= 2;
CREATE INDEX run_due ON perdure.run (namespace, queue, wake_at)
    WHERE state = 2 AND wake_at IS NOT NULL AND NOT suspended;
CREATE INDEX run_owned ON perdure.run (owner) WHERE state = 1;
-- Empty but for the moments until an owner lets go.
CREATE INDEX run_suspended ON perdure.run (owner) WHERE state = 1 AND suspended;
CREATE INDEX run_held ON perdure.run (namespace, queue) WHERE state = 3;

CREATE TABLE perdure.history (
    run_id bigint NOT NULL,
    seq    integer NOT NULL,
    events bytea NOT NULL,
    PRIMARY KEY (run_id, seq)
);
COMMENT ON TABLE perdure.history IS 'One row per turn: a byte that names the codec, then (codec 1) a JSON array of the time, the events and what is new in the header.';

CREATE TABLE perdure.payload (
    run_id  bigint NOT NULL,
    seq     integer NOT NULL,
    ordinal integer NOT NULL,
    data    bytea NOT NULL,
    PRIMARY KEY (run_id, seq, ordinal)
);
COMMENT ON TABLE perdure.payload IS 'Payloads too large for their turn; the event has their ordinal in its field "external".';

CREATE TABLE perdure.inbox (
    run_id bigint NOT NULL,
    number integer NOT NULL,
    owner  bigint,
    body   bytea NOT NULL,
    PRIMARY KEY (run_id, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE perdure.inbox IS 'Messages that no turn has consumed yet. owner is who owned the run when it came, and never changes.';
CREATE INDEX inbox_owner ON perdure.inbox (owner) WHERE owner IS NOT NULL;

CREATE TABLE perdure.task (
    run_id       bigint NOT NULL,
    seq          integer NOT NULL,
    namespace    text NOT NULL,
    queue        text NOT NULL,
    name         text NOT NULL,
    input        bytea NOT NULL,
    options      bytea NOT NULL,
    attempt      integer NOT NULL,
    available_at timestamptz NOT NULL,
    owner        bigint,
    claim        bigint,
    last_failure bytea,
    PRIMARY KEY (run_id, seq)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE perdure.task IS 'Activities for any worker of a queue; attempt is the number of the next or current one.';
CREATE INDEX task_due ON perdure.task (namespace, queue, available_at, run_id, seq) WHERE owner IS NULL;
CREATE INDEX task_owned ON perdure.task (owner) WHERE owner IS NOT NULL;

CREATE TABLE perdure.status_change (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id bigint NOT NULL
);
COMMENT ON TABLE perdure.status_change IS 'Runs with a key whose visible state changed and whose object does not show it yet.';

CREATE VIEW perdure.summary AS
SELECT r.id, r.instance, r.namespace, r.workflow, r.queue, r.state, r.created_at,
       coalesce(r.started_at, CASE WHEN r.claims > 0 THEN r.created_at END) AS started_at, r.closed_at, r.wake_at,
       w.name AS worker, r.priority, r.key,
       coalesce(r.waiting_for, '') AS waiting_for, coalesce(r.status_text, '') AS status_text,
       coalesce(r.progress, '') AS progress,
       coalesce(r.hold_reason, '') AS hold_reason, coalesce(r.hold_message, '') AS hold_message,
       r.cancel_requested, r.outcome, r.suspended, r.build
FROM perdure.run r
LEFT JOIN perdure.worker w ON w.id = r.owner;
COMMENT ON VIEW perdure.summary IS 'Runs as people see them.';

-- JSON may hold a NUL and halves of characters, which PostgreSQL cannot show: readers see a symbol in their place.
-- An even number of backslashes before the escape leaves it one; the first half of a pair is followed by the second.
CREATE FUNCTION perdure.readable(events bytea) RETURNS json
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN convert_from(substr(events, 2), 'UTF8') !~* '\\u(0000|d[89a-f])'
    THEN convert_from(substr(events, 2), 'UTF8')
    ELSE regexp_replace(
        regexp_replace(
            regexp_replace(
                convert_from(substr(events, 2), 'UTF8'),
                '(?<!\\)((?:\\\\)*)\\u0000', '\1\\u2400', 'g'
            ),
            '(?<!\\)((?:\\\\)*)\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})', '\1\\ufffd', 'gi'
        ),
        '(?<!\\)(?<!\\ud[89ab][0-9a-f]{2})((?:\\\\)*)\\ud[c-f][0-9a-f]{2}', '\1\\ufffd', 'gi'
    )
END::json;

CREATE VIEW perdure.turns AS
SELECT h.run_id, h.seq,
       timestamptz 'epoch' + (t.row ->> 0)::bigint * interval '1 microsecond' AS time,
       t.row ->> 2 AS build, t.row ->> 3 AS python, (t.row ->> 4)::integer AS flags, t.row ->> 5 AS worker,
       t.row -> 1 AS events
FROM perdure.history h
CROSS JOIN LATERAL (SELECT perdure.readable(h.events) AS row OFFSET 0) t
WHERE substr(h.events, 1, 1) = '\x01';
COMMENT ON VIEW perdure.turns IS 'Histories by turn; build, python, flags and worker are as in the turn before where they are NULL.';

CREATE FUNCTION perdure.event_type(tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE tag
    WHEN 'ws' THEN 'WorkflowExecutionStarted'
    WHEN 'wr' THEN 'WorkflowExecutionCancelRequested'
    WHEN 'sr' THEN 'SignalReceived'
    WHEN 'ac' THEN 'ActivityCompleted'
    WHEN 'ar' THEN 'ActivityAttemptFailed'
    WHEN 'af' THEN 'ActivityFailed'
    WHEN 'tf' THEN 'TimerFired'
    WHEN 'as' THEN 'ActivityScheduled'
    WHEN 'ax' THEN 'ActivityCancelRequested'
    WHEN 'ts' THEN 'TimerStarted'
    WHEN 'tx' THEN 'TimerCancelled'
    WHEN 'se' THEN 'SideEffectRecorded'
    WHEN 'wc' THEN 'WorkflowExecutionCompleted'
    WHEN 'wf' THEN 'WorkflowExecutionFailed'
    WHEN 'wx' THEN 'WorkflowExecutionCancelled'
    WHEN 'wt' THEN 'WorkflowExecutionTerminated'
    WHEN 'wo' THEN 'WorkflowExecutionTimedOut'
    ELSE tag
END;

CREATE VIEW perdure.events AS
SELECT t.run_id, r.namespace, r.instance, t.seq AS turn, e.number, t.time,
       perdure.event_type(e.event ->> 0) AS type, e.event
FROM perdure.turns t
JOIN perdure.run r ON r.id = t.run_id
CROSS JOIN LATERAL json_array_elements(t.events) WITH ORDINALITY AS e (event, number);
COMMENT ON VIEW perdure.events IS 'Histories by event: SELECT * FROM perdure.events WHERE instance = ''…'' ORDER BY run_id, turn, number';

-- For whoever scales workers, with no other right than to read this. Work that is owned counts, or the last worker would
-- be taken from under it; so does what is due before a new one is up. Each part has its own index, however many runs
-- have ended.
CREATE VIEW perdure.demand AS
SELECT namespace, queue, count(*) AS amount
FROM perdure.run WHERE state = 0 AND NOT suspended
GROUP BY namespace, queue
UNION ALL
SELECT namespace, queue, count(*)
FROM perdure.run WHERE state = 1
GROUP BY namespace, queue
UNION ALL
SELECT namespace, queue, count(*)
FROM perdure.run WHERE state = 2 AND wake_at < now() + interval '30 seconds' AND NOT suspended
GROUP BY namespace, queue
UNION ALL
SELECT namespace, queue, count(*)
FROM perdure.task WHERE owner IS NULL AND available_at < now() + interval '30 seconds'
GROUP BY namespace, queue
UNION ALL
SELECT namespace, queue, count(*)
FROM perdure.task WHERE owner IS NOT NULL
GROUP BY namespace, queue;
COMMENT ON VIEW perdure.demand IS 'Runs and activities that workers are needed for, in parts: add them up.';
