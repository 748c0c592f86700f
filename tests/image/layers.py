"""Layers of images: folders and Debian packages as tar files, the costly ones kept outside the repository.

What lives here: how a layer is made, and `Layer`. What must not: which layers an image has.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.debian import need, on_path

SUITE = "bookworm"
# What debian:bookworm-slim leaves out.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
IGNORED = "__pycache__"
PIP = ("--no-compile", "--no-deps", "--only-binary=:all:", "--require-hashes")
# The marks of time that an archive carries differ from those in compiled files; their contents do not matter then.
COMPILE = "--invalidation-mode=unchecked-hash"


@dataclass(frozen=True)
class Layer:
    """A tar file and its digest."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> "Layer":
        """Return the layer in a file."""
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())


def cached(key: str, make: Callable[[Path], None]) -> Layer:
    """Return the layer of this key; `make` writes it where it was never made. Those who ask meanwhile wait."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.tar"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial.tar")
            make(partial)
            # Whoever finds the layer finds a whole one, also when this process dies half-way.
            partial.replace(path)
    return Layer.of(path)


def debian(packages: Sequence[str], variant: str, left_out: Sequence[str] = ()) -> Layer:
    """Return a layer with Debian packages: a whole small system (`minbase`) or bare files (`extract`)."""
    excluded = [*LEFT_OUT, *left_out]
    return cached(
        "\n".join(["debian", SUITE, variant, *packages, *excluded]),
        lambda path: _mmdebstrap(path, packages, variant, excluded),
    )


def _mmdebstrap(path: Path, packages: Sequence[str], variant: str, left_out: Sequence[str]) -> None:
    program = need("mmdebstrap", lambda: on_path("mmdebstrap"))
    say(f"a layer with Debian's {', '.join(packages)}")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in left_out]
    what = [f"--variant={variant}", f"--include={','.join(packages)}", *options]
    run([str(program), "--quiet", *what, SUITE, str(path)])


def python_packages(lock: Path, target: str, base: Layer) -> Layer:
    """Return a layer with what a lock lists, in `target`, for the Python of the layer `base`, compiled."""

    def fill(root: Path) -> None:
        say(f"a layer with the packages of {lock.name}")
        version = next((root / "usr/bin").glob("python3.*")).name.removeprefix("python")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run([*pip, *PIP, f"--python-version={version}", f"--target={root}{target}", f"--requirement={lock}"])

    return _filled(f"packages\n{lock.read_text()}", target, fill, base)


def copied(copies: Sequence[tuple[Path, str]], target: str = "/", base: Layer | None = None) -> Layer:
    """Return a layer with folders and files in their places below `target`, compiled by the Python of `base`."""

    def fill(root: Path) -> None:
        (root / target[1:]).mkdir(parents=True, exist_ok=True)
        for source, place in copies:
            _copy(source, root / place[1:])

    return _filled("\n".join(f"{place} {_digest(source)}" for source, place in copies), target, fill, base)


def _filled(key: str, target: str, fill: Callable[[Path], None], base: Layer | None) -> Layer:
    """Return a layer with what `fill` puts below `target`, over the files of `base` where that is given."""

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="perdure-image-") as folder:
            root = Path(folder)
            if base is not None:
                unpack(base, root)
            fill(root)
            if base is not None:
                _compile(root, target)
            _write(path, root / target[1:], target)

    return cached("\n".join([target, base.digest if base else "", key]), make)


def unpack(layer: Layer, root: Path) -> None:
    """Unpack a layer over a folder, as its owner."""
    run(["tar", "--extract", "--numeric-owner", f"--file={layer.path}", f"--directory={root}", "--exclude=./dev/*"])


def _compile(root: Path, target: str) -> None:
    run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", COMPILE, target])


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(IGNORED))
    else:
        shutil.copy2(source, place)


def _digest(source: Path) -> str:
    digest = hashlib.sha256()
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    for path in paths:
        if path.is_file() and IGNORED not in path.parts:
            digest.update(f"{path.relative_to(source.parent)} {path.stat().st_mode:o}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _write(path: Path, folder: Path, place: str) -> None:
    """Write a folder as a layer in which it is at `place`, everything in it root's and of the same age."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode |= 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in [folder, *sorted(folder.rglob("*"))] if place != "/" else sorted(folder.rglob("*")):
            name = (Path(place) / entry.relative_to(folder)).as_posix().lstrip("/")
            archive.add(entry, name, recursive=False, filter=plain)


def run(command: Sequence[str]) -> None:
    """Run a command; raise `RuntimeError` with the end of what it said if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        message = f"`{' '.join(command[:4])} …` ended with {done.returncode}:\n{done.stderr[-3000:]}"
        raise RuntimeError(message)


def say(what: str) -> None:
    """Tell what takes long."""
    print(f"Making {what}", file=sys.stderr, flush=True)
