-- What readers ask. Columns of perdure.summary are taken by position: a newer schema may add some at the end.

-- name: version
SELECT coalesce(max(version), 0) FROM perdure.migration;

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

-- name: summaries
SELECT * FROM perdure.summary WHERE id = ANY (:runs::bigint[]);

-- name: by_key
SELECT * FROM perdure.summary WHERE key = ANY (:keys::text[]) ORDER BY id;

-- name: open_keys
SELECT key, namespace, instance FROM perdure.run WHERE key IS NOT NULL AND closed_at IS NULL ORDER BY id;

-- name: list_runs
SELECT * FROM perdure.summary
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

-- name: status_changes
SELECT c.number, s.*
FROM (SELECT number, run_id FROM perdure.status_change ORDER BY number LIMIT :limit::integer) c
JOIN perdure.summary s ON s.id = c.run_id
ORDER BY c.number;

-- name: acknowledge
DELETE FROM perdure.status_change WHERE number = ANY (:numbers::bigint[]);
