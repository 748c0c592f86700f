-- Runs whose time may run out while nobody has them. Few have a timeout, and no other run is in it.
CREATE INDEX run_overdue ON perdure.run (deadline)
    WHERE deadline IS NOT NULL AND state IN (0, 2, 3) AND NOT suspended;
