-- The columns of perdure.summary, for whoever reads many runs at a time: a result may be large, and is there with its
-- beginning then, and its size in the column before.
CREATE VIEW perdure.brief AS
SELECT CASE WHEN cut.long THEN length(s.outcome) END AS outcome_size,
       s.id, s.instance, s.namespace, s.workflow, s.queue, s.state, s.created_at, s.started_at, s.closed_at, s.wake_at,
       s.worker, s.priority, s.key, s.waiting_for, s.status_text, s.progress, s.hold_reason, s.hold_message,
       s.cancel_requested, CASE WHEN cut.long THEN substr(s.outcome, 1, 2048) ELSE s.outcome END AS outcome,
       s.suspended, s.build
FROM perdure.summary s
CROSS JOIN LATERAL (SELECT s.state = 10 AND length(s.outcome) > 16384 AS long) cut;
COMMENT ON VIEW perdure.brief IS 'Runs as people see them, without the end of long results.';
