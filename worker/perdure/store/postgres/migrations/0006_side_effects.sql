-- A side effect that failed is an event of its own.
CREATE OR REPLACE FUNCTION perdure.event_type(tag text) RETURNS text
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
    WHEN 'sf' THEN 'SideEffectFailed'
    WHEN 'wc' THEN 'WorkflowExecutionCompleted'
    WHEN 'wf' THEN 'WorkflowExecutionFailed'
    WHEN 'wx' THEN 'WorkflowExecutionCancelled'
    WHEN 'wt' THEN 'WorkflowExecutionTerminated'
    WHEN 'wo' THEN 'WorkflowExecutionTimedOut'
    ELSE tag
END;
