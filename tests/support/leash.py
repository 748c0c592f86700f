"""A leash for programs that a test starts: when the process that holds it ends, however it ends, they end too.

What lives here: `Leash`. What must not: knowledge of the programs.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from typing import Final


class Leash:
    """A process group. Start programs with ``process_group=leash.group``; they do not see the Ctrl-C of a terminal."""

    def __init__(self, afterwards: Sequence[Sequence[str]] = ()) -> None:
        """Also run the commands of ``afterwards``, once the programs are gone."""
        # The first member keeps the group's number taken; the keeper stands outside, so that it survives the group.
        self._post: Final = subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd="/", process_group=0)
        commands = [["kill", "-KILL", "--", f"-{self._post.pid}"], *afterwards]
        self._keeper: Final = subprocess.Popen(
            ["/bin/sh", "-c", f"cat >/dev/null; {'; '.join(map(shlex.join, commands))}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def group(self) -> int:
        """The process group that is ended with this process."""
        return self._post.pid

    def let_go(self) -> None:
        """End everything that is still on the leash; a second call does nothing."""
        self._keeper.communicate()
        self._post.communicate()
