"""Floor 0: data only. Ids, events, policies, runs and the payload codec; no behaviour that waits or decides."""
