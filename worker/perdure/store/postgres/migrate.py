"""The schema and its versions.

What lives here: applying the numbered migrations, and the read-only check that a running process makes. What must
not: DDL at run time; whoever runs workers needs no right to change tables.
"""

from dataclasses import dataclass
from importlib.resources import files

import psycopg

from perdure.errors import RequestError, SchemaVersionError
from perdure.store.postgres.address import Address, unavailable

LOCK = 7_331_927_118_404_224_001
"""The advisory lock of migrations: any number, as long as nobody else uses it."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str


def migrations() -> list[Migration]:
    """Return the migrations that ship with this release, in order."""
    found = []
    for file in files(__package__).joinpath("migrations").iterdir():
        number, separator, _ = file.name.partition("_")
        if separator and file.name.endswith(".sql"):
            found.append(Migration(int(number), file.name, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def required_version() -> int:
    """Return the schema version that this release needs."""
    return migrations()[-1].version


def migrate(dsn: str) -> list[str]:
    """Bring the schema up to this release and return the names of the migrations applied now.

    Each migration is one transaction; several processes may call this at once. Where nothing is to be done, the right
    to read is enough. Raises `StoreUnavailableError` when the database cannot be reached or takes no writes,
    `RequestError` when the role may not do it.
    """
    address = Address.parse(dsn)
    applied: list[str] = []
    try:
        with psycopg.connect(address.conninfo, autocommit=True, prepare_threshold=None) as connection:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # one that waited sees what was done
            _check_encoding(connection, address)
            applied.extend(
                migration.name
                for migration in migrations()
                if not _is_there(connection, migration) and _apply(connection, migration)
            )
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
        raise unavailable(address, error) from error
    except psycopg.errors.InsufficientPrivilege as error:
        reason = " ".join(str(error).split())
        message = (
            f"the role of this URL may not change the schema of database {address.database} at {address.host} "
            f"({reason}): run `perdure migrate` with a role that may create tables"
        )
        raise RequestError(message) from error
    return applied


def _check_encoding(connection: psycopg.Connection, address: Address) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        message = (
            f"database {address.database} at {address.host} has the encoding {encoding}, in which not every name and "
            f"message can be stored: create it with ENCODING 'UTF8' (and TEMPLATE template0)"
        )
        raise RequestError(message)


def _is_there(connection: psycopg.Connection, migration: Migration) -> bool:
    table = connection.execute("SELECT to_regclass('perdure.migration') IS NOT NULL").fetchone()
    return table == (True,) and _is_known(connection, migration)


def _is_known(connection: psycopg.Connection, migration: Migration) -> bool:
    query = "SELECT 1 FROM perdure.migration WHERE version = %s"
    return connection.execute(query, [migration.version]).fetchone() is not None


def _apply(connection: psycopg.Connection, migration: Migration) -> bool:
    with connection.transaction():
        # For the transaction only: the lock then also works through a pooler that lends connections by transaction.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        connection.execute("SET LOCAL standard_conforming_strings = on")
        connection.execute("CREATE SCHEMA IF NOT EXISTS perdure")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS perdure.migration ("
            "version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        if _is_known(connection, migration):
            return False
        connection.execute(migration.text.encode())
        connection.execute(
            "INSERT INTO perdure.migration (version, name) VALUES (%s, %s)", [migration.version, migration.name]
        )
    return True


def check_version(found: int, database: str, host: str) -> None:
    """Raise `SchemaVersionError` when the schema is older than this release; a newer one still serves it."""
    needed = required_version()
    if found < needed:
        state = f"has schema version {found}" if found else "has no Perdure schema"
        message = (
            f"database {database} at {host} {state}, this release needs {needed}: "
            "run `perdure migrate --url …` with a role that may create tables"
        )
        raise SchemaVersionError(message)
