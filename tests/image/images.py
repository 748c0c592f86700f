"""The images: which layers each has and what its containers are told, and the archive that holds both.

What lives here: `perdure`, `user`, `postgresql`, `pause` and `write_archive`. What must not: how layers are made.
"""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.image.dockerfile import DockerfileError, Settings, Stage, read
from tests.image.layers import Layer, copied, debian, python_packages
from tests.support.debian import need, on_path

ROOT = Path(__file__).resolve().parents[2]
TARGET = "/opt/perdure"
NAME = "docker.io/library/perdure:0.1.0"
POSTGRESQL = "docker.io/perdure/postgresql:15"
PAUSE = "docker.io/perdure/pause:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# PostgreSQL does without them, and they are half of what its packages need.
UNNEEDED = (
    "/usr/lib/*/libLLVM*",
    "/usr/lib/*/libz3*",
    "/usr/lib/postgresql/*/lib/*jit*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/*/perl/*",
    "/usr/share/perl/*",
)


@dataclass(frozen=True)
class Image:
    """A name, layers from the lowest to the highest, and what its containers are told."""

    name: str
    layers: Sequence[Layer]
    settings: Settings


def perdure() -> Image:
    """Return the image of the Dockerfile at the root."""
    dependencies, project, final = read(ROOT / "Dockerfile")
    base = debian(packages(final), "minbase")
    sources = [(ROOT / source, f"{TARGET}/{Path(source).name}") for source, _ in copies(project)]
    layers = [
        base,
        python_packages(ROOT / copies(dependencies)[0][0], TARGET, base),
        copied(sources, TARGET, base),
        _own_files(final, ROOT),
    ]
    return Image(NAME, layers, Settings().after(final))


def user(dockerfile: Path, context: Path, name: str) -> Image:
    """Return the image of somebody who puts workflows on top of ours by a Dockerfile of FROM, COPY, ENV and CMD."""
    (stage,) = read(dockerfile)
    parent = perdure()
    if stage.parent != parent.name.removeprefix("docker.io/library/"):
        message = f"{dockerfile}: FROM {stage.parent} is another image than {parent.name}"
        raise DockerfileError(message)
    if stage.having("RUN"):
        message = f"{dockerfile}: RUN needs a container engine"
        raise DockerfileError(message)
    return Image(name, [*parent.layers, _own_files(stage, context)], parent.settings.after(stage))


def postgresql() -> Image:
    """Return Debian's PostgreSQL, for a cluster that reaches no registry."""
    base = debian(["postgresql-15", "base-files", "coreutils", "dash", "libc-bin"], "extract", UNNEEDED)
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder) / "passwd"
        # initdb wants the user that it runs as to have a name.
        users.write_text("root:x:0:0::/:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n")
        layers = [base, copied([(users, "/etc/passwd")])]
    environment = {"PATH": "/usr/lib/postgresql/15/bin:/usr/bin:/bin"}
    return Image(POSTGRESQL, layers, Settings(environment=environment, user="999:999"))


def pause() -> Image:
    """Return the image of the container that keeps a pod's network: it does nothing."""
    busybox = need("busybox-static", lambda: on_path("busybox"))
    settings = Settings(entry_point=["/busybox", "sleep", "2147483647"], user="65535:65535")
    return Image(PAUSE, [copied([(busybox, "/busybox")])], settings)


def packages(stage: Stage) -> list[str]:
    """Return the Debian packages that a stage installs."""
    (install,) = [one for one in stage.having("RUN") if "apt-get install" in one.text]
    words = install.text.partition("apt-get install")[2].partition("&&")[0].split()
    return [word for word in words if not word.startswith("-")]


def copies(stage: Stage) -> list[tuple[str, str]]:
    """Return what a stage copies from the build's context, and where to."""
    pairs = [instruction.words() for instruction in stage.having("COPY")]
    return [(pair[0], pair[1]) for pair in pairs if not pair[0].startswith("--from=")]


def _own_files(stage: Stage, context: Path) -> Layer:
    return copied([(context / source, place) for source, place in copies(stage)])


def write_archive(image: Image, path: Path) -> None:
    """Write an image as a docker-archive."""
    settings = image.settings
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": settings.user,
            "Env": [f"{name}={value}" for name, value in _with_path(settings.environment).items()],
            "WorkingDir": settings.folder,
            "Entrypoint": list(settings.entry_point),
            "Cmd": list(settings.command),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in image.layers]},
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    files = [f"{layer.digest}/layer.tar" for layer in image.layers]
    manifest = json.dumps([{"Config": name, "RepoTags": [image.name], "Layers": files}]).encode()
    with tarfile.open(path, "w") as archive:
        for layer, file in zip(image.layers, files, strict=True):
            archive.add(layer.path, file)
        for file, content in ((name, text), ("manifest.json", manifest)):
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _with_path(environment: dict[str, str]) -> dict[str, str]:
    # Every image that an engine makes has one.
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **environment}
