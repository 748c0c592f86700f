-- What readers ask. Columns of perdure.summary and perdure.brief are taken by position: a newer schema may add some at the end.

-- name: version
SELECT coalesce(max(version), 0), current_setting('transaction_isolation'), current_setting('synchronous_commit')
FROM perdure.migration;

-- name: announcement_key
SELECT key FROM perdure.announcement_key LIMIT 1;

-- name: describe
-- Closed runs are found by a hash of their instance, which is a third of the index; an open run is always the newest.
SELECT * FROM perdure.summary
WHERE namespace = :namespace::text AND instance = :instance::text
  AND id = coalesce(
      :run::bigint,
      (
          SELECT id FROM perdure.run
          WHERE namespace = :namespace::text AND instance = :instance::text AND closed_at IS NULL
      ),
      (
          SELECT max(id) FROM perdure.run
          WHERE namespace = :namespace::text AND instance = :instance::text
            AND hashtext(instance) = hashtext(:instance::text) AND closed_at IS NOT NULL
      )
  );

-- name: ended
-- Those that have closed, and those that are not here. Whoever waits for many results asks for all of them each time.
SELECT a.id, r.instance, r.outcome
FROM unnest(:runs::bigint[]) AS a (id)
LEFT JOIN LATERAL (SELECT instance, outcome FROM perdure.run WHERE id = a.id OFFSET 0) r ON true
WHERE r.outcome IS NOT NULL OR r.instance IS NULL;

-- name: ended_one
-- The same for one run: after a pause an array costs a quarter of the time.
SELECT a.id, r.instance, r.outcome
FROM (SELECT :run::bigint AS id) a LEFT JOIN perdure.run r ON r.id = a.id
WHERE r.outcome IS NOT NULL OR r.instance IS NULL;

-- name: by_key
SELECT * FROM (SELECT * FROM perdure.brief WHERE key = ANY (:keys::text[]) OFFSET 0) b ORDER BY id;

-- name: newest
SELECT b.*
FROM unnest(:namespaces::text[], :instances::text[]) AS n (namespace, instance)
CROSS JOIN LATERAL (
    SELECT coalesce(
        (SELECT id FROM perdure.run WHERE namespace = n.namespace AND instance = n.instance AND closed_at IS NULL),
        (
            SELECT max(id) FROM perdure.run
            WHERE namespace = n.namespace AND instance = n.instance
              AND hashtext(instance) = hashtext(n.instance) AND closed_at IS NOT NULL
        )
    ) AS id
) r
JOIN perdure.brief b ON b.id = ANY (ARRAY[r.id]);

-- name: open_keys
SELECT key, namespace, instance FROM perdure.run WHERE key IS NOT NULL AND closed_at IS NULL ORDER BY id;

-- name: list_runs
SELECT * FROM perdure.brief
WHERE namespace = :namespace::text
  AND (:workflow::text IS NULL OR workflow = :workflow::text)
  AND (:instance::text IS NULL OR instance = :instance::text)
  AND (:states::integer[] IS NULL OR state = ANY (:states::integer[]))
  AND (:before::bigint IS NULL OR id < :before::bigint)
ORDER BY id DESC
LIMIT :limit::integer;

-- name: history
SELECT h.seq, h.events, p.data
FROM perdure.history h
LEFT JOIN LATERAL (
    SELECT array_agg(data ORDER BY ordinal) AS data FROM perdure.payload WHERE run_id = h.run_id AND seq = h.seq
) p ON true
WHERE h.run_id = :run::bigint
ORDER BY h.seq;

-- name: census
-- Every part has a partial index. A parked run whose time has come waits like a ready one.
WITH waiting AS (
    SELECT namespace, queue, count(*) AS runs, 0 AS activities, 0 AS workers,
           min(created_at) FILTER (WHERE claims = 0) AS since
    FROM perdure.run
    WHERE state = 0 AND NOT suspended AND (:namespaces::text[] IS NULL OR namespace = ANY (:namespaces::text[]))
    GROUP BY namespace, queue
    UNION ALL
    SELECT namespace, queue, count(*), 0, 0, min(wake_at)
    FROM perdure.run
    WHERE state = 2 AND wake_at <= now() AND NOT suspended
      AND (:namespaces::text[] IS NULL OR namespace = ANY (:namespaces::text[]))
    GROUP BY namespace, queue
    UNION ALL
    SELECT namespace, queue, 0, count(*), 0, min(available_at)
    FROM perdure.task
    WHERE owner IS NULL AND available_at <= now()
      AND (:namespaces::text[] IS NULL OR namespace = ANY (:namespaces::text[]))
    GROUP BY namespace, queue
    UNION ALL
    SELECT namespace, queue, 0, 0, count(*), NULL
    FROM perdure.worker, unnest(queues) AS queue
    WHERE expires_at > now() AND (:namespaces::text[] IS NULL OR namespace = ANY (:namespaces::text[]))
    GROUP BY namespace, queue
)
SELECT 'queue', namespace, queue, sum(runs)::bigint, sum(activities)::bigint, sum(workers)::bigint,
       coalesce(extract(epoch FROM now() - min(since)), 0)::float8
FROM waiting GROUP BY namespace, queue
UNION ALL
SELECT 'held', NULL, hold_reason, count(*), 0, 0, 0
FROM perdure.run
WHERE state = 3 AND (:namespaces::text[] IS NULL OR namespace = ANY (:namespaces::text[]))
GROUP BY hold_reason
UNION ALL
SELECT 'open', NULL, NULL, count(*), 0, 0, 0
FROM perdure.run
WHERE closed_at IS NULL AND (:namespaces::text[] IS NULL OR namespace = ANY (:namespaces::text[]));

-- name: status_changes
SELECT c.number, b.*
FROM (
    SELECT number, run_id FROM perdure.status_change WHERE number > :after::bigint ORDER BY number LIMIT :limit::integer
) c
JOIN perdure.brief b ON b.id = ANY (ARRAY[c.run_id])
ORDER BY c.number;

-- name: acknowledge
DELETE FROM perdure.status_change WHERE number = ANY (:numbers::bigint[]);
