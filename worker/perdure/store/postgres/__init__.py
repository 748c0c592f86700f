"""The store on PostgreSQL: `PostgresStore` for processes, `migrate` for whoever may create tables.

Start reading at `store`; the statements are in ``sql/``, the schema in ``migrations/``.
"""

from perdure.store.postgres.migrate import migrate
from perdure.store.postgres.store import PostgresStore

__all__ = ["PostgresStore", "migrate"]
