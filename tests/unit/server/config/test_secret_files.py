"""Settings whose value is in a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.cli.adapters.admin_client import AdminClient
from server.config.secret_files import MAX_FILE_BYTES
from server.config.settings import load
from server.errors import SettingsError

URL = "postgresql+asyncpg://loragate:s3cret@db/loragate"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LORAGATE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "url"
    file.write_text(URL)
    monkeypatch.setenv("LORAGATE_DATABASE_URL_FILE", str(file))
    return file


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_value_is_the_files_content_without_line_ends(secret: Path, end: str) -> None:
    secret.write_bytes(f" {URL} {end}".encode())
    settings = load({"model": "x"})
    assert settings.database_url == f" {URL} "
    assert "s3cret" not in repr(settings) and "s3cret" not in str(settings)


def test_flag_before_file_before_config(secret: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('database_url = "sqlite+aiosqlite://"\n')
    assert load({"model": "x"}, config=config).database_url == URL
    assert load({"model": "x", "database_url": "y"}, config=config).database_url == "y"


def test_every_kind_of_setting_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("PORT", "40\n"), ("ENGINE_ARGS", '{"seed": 1}\n'), ("PROTECT_METRICS", "true")):
        (tmp_path / name).write_text(value)
        monkeypatch.setenv(f"LORAGATE_{name}_FILE", str(tmp_path / name))
    settings = load({"model": "x"})
    assert (settings.port, settings.engine_args, settings.protect_metrics) == (40, {"seed": 1}, True)
    assert load({"model": "x", "engine_args": {"block_size": 16}}).engine_args == {"block_size": 16}


def test_both_forms_are_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGATE_DATABASE_URL", "y")
    told = "^LORAGATE_DATABASE_URL and LORAGATE_DATABASE_URL_FILE are both set: keep one of them.$"
    with pytest.raises(SettingsError, match=told):
        load({"model": "x"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"a\0b", "has a null character"),
        (b"s3cret" * MAX_FILE_BYTES, "has more than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(secret: Path, content: bytes | None, words: str) -> None:
    secret.unlink() if content is None else secret.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load({"model": "x"})
    message = str(caught.value)
    assert message.startswith(f"LORAGATE_DATABASE_URL_FILE {secret} {words}") and "s3cret" not in message
    secret.unlink(missing_ok=True)
    secret.mkdir()
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load({"model": "x"})


def test_a_value_that_is_not_valid_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("s3cret")
    monkeypatch.setenv("LORAGATE_PORT_FILE", str(tmp_path / "port"))
    with pytest.raises(SettingsError) as caught:
        load({"model": "x"})
    assert str(caught.value).startswith("--port (from a file): ") and "s3cret" not in str(caught.value)


def test_a_setting_that_is_a_path_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHAT_TEMPLATE", "DATA_DIR"):
        monkeypatch.setenv(f"LORAGATE_{name}_FILE", "/x")
        with pytest.raises(
            SettingsError, match=f"LORAGATE_{name}_FILE is no setting: LORAGATE_{name} itself"
        ):
            load({"model": "x"})
        monkeypatch.delenv(f"LORAGATE_{name}_FILE")


def test_an_unknown_variable_for_a_file_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGATE_DATABASE_UR_FILE", "/x")
    with pytest.raises(SettingsError, match=r"Did you mean LORAGATE_DATABASE_URL_FILE\?"):
        load({"model": "x"})


def test_the_clients_key_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("lg-s3cret\n")
    monkeypatch.setenv("LORAGATE_KEY_FILE", str(tmp_path / "key"))
    assert AdminClient(None, None)._headers == {"authorization": "Bearer lg-s3cret"}
    assert load({"model": "x"}).model == "x", "no setting of the server, and no error"
    monkeypatch.setenv("LORAGATE_KEY", "other")
    with pytest.raises(SettingsError, match="both set"):
        AdminClient(None, None)
