"""Real parts that several test levels share: a database, a control plane. Fixtures that use them live in conftest.py.

Nothing here is collected as a test, and nothing in the product imports it.
"""
