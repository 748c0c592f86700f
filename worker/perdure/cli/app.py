"""``perdure``: the program.

What lives here: the list of commands, the options of the program itself, and
what becomes of an error that nobody else handles. What must not: commands.
"""

import os
import sys
from typing import Annotated

import typer

from perdure.cli import exits, looking, output, starting, steering, upkeep, work
from perdure.errors import PerdureError

_EXIT_CODES = "\n".join(f"- {code}: {meaning}" for code, meaning in exits.MEANINGS.items())

app = typer.Typer(
    name="perdure",
    help="Durable workflows on PostgreSQL.",
    epilog=f"Exit codes:\n\n{_EXIT_CODES}",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def program(
    url: Annotated[
        str | None, typer.Option(help="The database, for every command; or PERDURE_URL.", metavar="URL")
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="The tenant, for every command; or PERDURE_NAMESPACE.", metavar="NAME"),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log everything, and show tracebacks of Perdure itself; or PERDURE_DEBUG=1.")
    ] = False,
) -> None:
    """Durable workflows on PostgreSQL."""
    # The commands read the environment; what is said here stands between it and their own options.
    for name, value in (("PERDURE_URL", url), ("PERDURE_NAMESPACE", namespace), ("PERDURE_DEBUG", debug and "1")):
        if value:
            os.environ[name] = value


_RUN, _TALK, _LOOK, _KEEP = "Run", "Talk to a run", "Look", "Keep it running"

app.command("worker", rich_help_panel=_RUN)(work.worker)
app.command("start", rich_help_panel=_RUN)(starting.start)
app.command("apply", rich_help_panel=_RUN)(starting.apply)
app.command("signal", rich_help_panel=_TALK)(steering.signal)
app.command("cancel", rich_help_panel=_TALK)(steering.cancel)
app.command("terminate", rich_help_panel=_TALK)(steering.terminate)
app.command("suspend", rich_help_panel=_TALK)(steering.suspend)
app.command("resume", rich_help_panel=_TALK)(steering.resume)
app.command("result", rich_help_panel=_LOOK)(looking.result)
app.command("list", rich_help_panel=_LOOK)(looking.list_runs)
app.command("describe", rich_help_panel=_LOOK)(looking.describe)
app.command("history", rich_help_panel=_LOOK)(looking.history)
app.command("migrate", rich_help_panel=_KEEP)(upkeep.migrate)
app.command("operator", rich_help_panel=_KEEP)(upkeep.operator)
app.command("version", rich_help_panel=_KEEP)(upkeep.version)


def main() -> None:
    """Run the program and exit with a code that scripts understand."""
    try:
        app()
    except PerdureError as error:
        exits.show(error)
        sys.exit(exits.exit_code(error))
    except Exception as error:
        if exits.debugging():
            raise
        output.note(f"perdure itself failed; perdure --debug {' '.join(sys.argv[1:2])} … shows where")
        output.err.print(f"{type(error).__name__}: {error}", style="bold red")
        sys.exit(exits.ExitCode.INTERNAL)
