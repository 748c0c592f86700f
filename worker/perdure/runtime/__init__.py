"""Floor 3: the only place that loops.

`worker` wires the parts together, `execution` moves one run, `flush` writes for
all of them at once, `attempts` carries out activities, `lease` keeps the right
to do so.
"""
