"""The end of a run's tasks, when nobody goes on with it here: each is cancelled, and what does not end is closed.

What lives here: `end_tasks`. What must not: commands; by then the run refuses them. Only `run` calls it.
"""

from .loop import RunLoop

_ROUNDS = 8
_PASSES = 100


def end_tasks(loop: RunLoop) -> list[str]:
    """Cancel the tasks of a run, again and again, and return the names of those that did not end."""
    for _ in range(_ROUNDS):
        remaining = loop.open_tasks()
        if not remaining:
            return []
        for task in remaining:
            task.cancel()
        for _ in range(_PASSES):  # what goes on for ever is not waited for
            if not loop.run_once():
                break
    stubborn = loop.open_tasks()
    for task in stubborn:  # as a part of the run: its cleanup would make activities itself, as code outside of one does
        loop.call_soon(task.get_coro().close)
    loop.run_once()  # who ignores GeneratorExit as well raises, and is named in the answer
    return [task.get_name() for task in stubborn]
