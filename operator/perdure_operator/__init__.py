"""The Kubernetes operator: WorkflowInstance objects in, runs in the database, their status out.

Read `main` (what runs), then `controller` (object to run) and `sync` (run to object). `reconcile` and `status` are pure
and hold every decision; only `handlers` knows kopf and only `cluster` knows the Kubernetes client.
"""
