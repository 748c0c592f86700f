"""Where a database is, how to connect to it, and how to speak of it without its password.

What lives here: reading of URLs, the settings of our connections, the error for a database that does not answer.
What must not: open connections.
"""

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from perdure.errors import RequestError, StoreUnavailableError

POOLER_PARAMETER = "pgbouncer"

# What packs our parameters writes UTF-8, whatever the environment or the URL say.
_ALWAYS = {"client_encoding": "UTF8"}
_DEFAULTS = {
    "application_name": "perdure",
    # A peer that vanished without a word is found out in seconds, not by the operating system in a quarter of an hour.
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}

# The statements are written for it: another one that is the default of a role or database would change what they see.
_ISOLATION = "-c default_transaction_isolation=read\\ committed"
# Every statement of the hot path looks up keys, so one plan is right at every size of the tables: nested loops over
# indexes. Without these settings a plan made while a table was small would scan it when it has grown. The statements do
# their part: `= ANY (ARRAY[key])` and `OFFSET 0` leave no other way either (docs/decisions/0019).
_PLANS = (
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off "
    "-c enable_material=off -c enable_bitmapscan=off -c jit=off"
)
# The server, too, finds out in seconds that we have vanished: until then it holds what we have locked.
_KEEPALIVES = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3"


@dataclass(frozen=True, slots=True)
class Address:
    """A database. ``pooler``: between us and it is PgBouncer, which lends a connection for one transaction only."""

    conninfo: str
    host: str
    database: str
    pooler: bool

    @classmethod
    def parse(cls, dsn: str) -> "Address":
        """Read a URL; ``?pgbouncer=true`` says that there is a pooler. Raises `RequestError` without showing it."""
        pooler = False
        try:
            parts = urlsplit(dsn)
            if parts.scheme in {"postgresql", "postgres"}:
                query = parse_qsl(parts.query, keep_blank_values=True)
                pooler = dict(query).get(POOLER_PARAMETER, "false").lower() in {"true", "on", "yes", "1"}
                rest = urlencode([(name, value) for name, value in query if name != POOLER_PARAMETER], quote_via=quote)
                dsn = urlunsplit(parts._replace(query=rest))
            known = conninfo_to_dict(dsn)
            defaults = {name: value for name, value in _DEFAULTS.items() if name not in known}
            conninfo = make_conninfo(dsn, **defaults, **_ALWAYS)
        except (ValueError, psycopg.Error):
            message = "the database URL cannot be read; write it as postgresql://user@host:5432/database"
            raise RequestError(message) from None  # the cause might show the password
        host = str(known.get("host") or known.get("hostaddr") or "the local socket")
        port = known.get("port")
        place = f"{host}:{port}" if port else host
        return cls(conninfo, place, str(known.get("dbname") or known.get("user") or "(default)"), pooler)

    def with_settings(self, *, hot: bool) -> str:
        """Return the conninfo of a connection that no pooler lends; ``hot``: its plans are fixed."""
        known = conninfo_to_dict(self.conninfo).get("options")
        options = [known, _ISOLATION, _PLANS if hot else None, _KEEPALIVES if hot else None]
        return make_conninfo(self.conninfo, options=" ".join(str(option) for option in options if option))


def check_settings(address: Address, isolation: str, synchronous_commit: str) -> None:
    """Raise `RequestError` when a connection has defaults that lose something: a pooler lets nobody set their own."""
    wrong = [
        f"SET {name} = '{right}'"
        for name, found, right in (
            ("default_transaction_isolation", isolation, "read committed"),
            ("synchronous_commit", synchronous_commit if synchronous_commit == "off" else "on", "on"),
        )
        if found != right
    ]
    if wrong:
        changes = "; ".join(f'ALTER DATABASE "{address.database}" {change}' for change in wrong)
        message = (
            f"database {address.database} at {address.host} has defaults that would lose or double steps, and behind a "
            f"pooler Perdure cannot set its own: run {changes}; then let the pooler open new connections"
        )
        raise RequestError(message)


def refuses_options(error: psycopg.Error) -> bool:
    """Tell whether a connection was refused because a pooler does not pass settings on."""
    return "unsupported startup parameter" in str(error)


def unavailable(address: Address, error: BaseException) -> StoreUnavailableError:
    """Return the error for a database that does not do what it is asked, and may do it later."""
    reason = " ".join(str(error).split()) or type(error).__name__
    match error:
        case errors.ReadOnlySqlTransaction():
            what = "takes no writes"
            action = "It is a standby or was made read-only: let the URL lead to a server that takes them"
        case errors.DiskFull() | errors.OutOfMemory() | errors.IoError() | errors.ProgramLimitExceeded():
            what, action = "cannot write", "Give it what it lacks"
        case errors.LockNotAvailable() | errors.QueryCanceled():
            what, action = "gives statements up", "Look for who holds a lock, or who ends statements"
        case _:
            what, action = "cannot be reached", "Check that it runs and that the URL is right"
    return StoreUnavailableError(
        f"PostgreSQL at {address.host} (database {address.database}) {what}: {reason}. "
        f"{action}; nothing was lost and the call may be repeated"
    )
