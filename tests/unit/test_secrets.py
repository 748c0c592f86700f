"""References to Secrets: what is recorded, and how the value is read."""

from pathlib import Path

import msgspec
import pytest

from perdure import Secret
from perdure.errors import SecretMissingError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERDURE_SECRETS", str(tmp_path / "secrets"))
    (tmp_path / "secrets" / "payment").mkdir(parents=True)
    (tmp_path / "elsewhere").write_text("not yours")
    return tmp_path / "secrets"


def test_what_is_recorded_of_a_secret_is_its_name(folder: Path) -> None:
    (folder / "payment" / "token").write_text("4242")
    secret = Secret("payment", "token")
    assert secret.read() == "4242"
    assert msgspec.json.encode(secret) == b'{"name":"payment","key":"token"}'
    assert "4242" not in repr(secret)


def test_a_value_that_is_rotated_is_read_anew(folder: Path) -> None:
    secret = Secret("payment", "token")
    for value in ("old", "new"):
        (folder / "payment" / "token").write_text(value)
        assert secret.read() == value


def test_a_secret_that_is_not_mounted_is_named_with_the_place_where_it_should_be(folder: Path) -> None:
    with pytest.raises(SecretMissingError, match=f"key token of Secret payment.*mount the Secret as {folder}/payment"):
        Secret("payment", "token").read()


@pytest.mark.parametrize(
    ("name", "key"),
    [("..", "elsewhere"), ("payment", "../../elsewhere"), ("payment", "..data"), ("", "x"), ("/", "etc")],
)
@pytest.mark.usefixtures("folder")
def test_a_reference_cannot_lead_out_of_the_folder(name: str, key: str) -> None:
    with pytest.raises(SecretMissingError, match="is no name of a Secret"):
        Secret(name, key).read()
