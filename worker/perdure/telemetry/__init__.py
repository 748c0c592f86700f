"""What a process says about itself: numbers that are counted as it works, and log records.

Read `tally` (what a worker counts) and `logs` (how records are written). `prometheus` turns numbers into a page that
Prometheus reads; it is the only module here that knows it. Nothing here opens a port or decides anything.
"""
