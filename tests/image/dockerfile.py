"""Reading a Dockerfile: stages, instructions, and what an image made from one is told.

What lives here: text to data. What must not: building. It knows the instructions that this project uses and refuses
every other, so that a Dockerfile that says more than the archive has is an error.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path


class DockerfileError(ValueError):
    """A Dockerfile says what this reader does not understand."""


@dataclass(frozen=True)
class Instruction:
    """One instruction; the lines that it goes over are joined."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Return its arguments, without quotes; those of a JSON list, where it is one."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass(frozen=True)
class Stage:
    """What follows one FROM."""

    parent: str
    name: str | None
    instructions: Sequence[Instruction]

    def having(self, name: str) -> list[Instruction]:
        """Return the instructions of one kind."""
        return [instruction for instruction in self.instructions if instruction.name == name]


@dataclass(frozen=True)
class Settings:
    """What a container that is made of an image is told."""

    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    folder: str = "/"
    entry_point: Sequence[str] = ()
    command: Sequence[str] = ()

    def after(self, stage: Stage) -> "Settings":
        """Return what a stage makes of these settings, which are its parent's."""
        settings = self
        for instruction in stage.instructions:
            words = instruction.words() if instruction.name != "RUN" else []
            match instruction.name:
                case "ENV":
                    new = dict(word.split("=", 1) for word in words)
                    settings = replace(settings, environment={**settings.environment, **new})
                case "USER":
                    settings = replace(settings, user=words[0])
                case "WORKDIR":
                    settings = replace(settings, folder=words[0])
                case "ENTRYPOINT":
                    settings = replace(settings, entry_point=words, command=())
                case "CMD":
                    settings = replace(settings, command=words)
        return settings


KNOWN = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def read(path: Path) -> list[Stage]:
    """Return the stages of a Dockerfile, the last one being the image; raise `DockerfileError` for what is unknown."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    instructions = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, text = line.strip().partition(" ")
        if name not in KNOWN:
            message = f"{path.name}: the instruction {name} is not understood"
            raise DockerfileError(message)
        instructions.append(Instruction(name, text.strip()))
    begins = [number for number, instruction in enumerate(instructions) if instruction.name == "FROM"]
    if not begins or begins[0] != 0:
        message = f"{path.name}: it has to begin with FROM"
        raise DockerfileError(message)
    stages = []
    for begin, end in zip(begins, [*begins[1:], None], strict=True):
        parent, *alias = instructions[begin].words()
        stages.append(Stage(parent, alias[1] if alias else None, instructions[begin + 1 : end]))
    return stages
