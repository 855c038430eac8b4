"""The sources of a setting and their order, and the messages for one that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config.settings import Settings, load
from server.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("LORAGATE_"):
            monkeypatch.delenv(name)


def test_order_of_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flag, then environment, then file, then default."""
    config = tmp_path / "c.toml"
    config.write_text('model = "m"\nmax_loras = 2\nmax_num_seqs = 3\nport = 4\n')
    monkeypatch.setenv("LORAGATE_MAX_NUM_SEQS", "30")
    monkeypatch.setenv("LORAGATE_PORT", "40")
    settings = load({"port": 400}, config=config)
    assert (settings.max_loras, settings.max_num_seqs, settings.port) == (2, 30, 400)
    assert settings.max_lora_rank == 16


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, ["--model", "--demo"]),
        ({"demo": True, "host": "0.0.0.0"}, ["loopback", "0.0.0.0"]),
        ({"demo": True, "model": "x"}, ["--demo", "--model x"]),
        ({"model": "x", "max_loras": 8, "max_cpu_loras": 4}, ["--max-cpu-loras 4", "--max-loras 8"]),
        ({"model": "x", "max_lora_rank": 24}, ["--max-lora-rank 24"]),
        ({"model": "x", "port": 70000}, ["--port 70000"]),
        ({"model": "x", "engine_args": "{"}, ["--engine-args", "JSON"]),
        ({"model": "x", "engine_args": "[1]"}, ["--engine-args", "object"]),
    ],
)
def test_refusals_name_flag_and_value(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags)
    for word in words:
        assert word in str(caught.value)


def test_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGATE_MAX_LORA", "4")
    with pytest.raises(SettingsError, match=r"LORAGATE_MAX_LORA .*LORAGATE_MAX_LORAS"):
        load({"model": "x"})


def test_unknown_key_of_the_file_names_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('modell = "m"\n')
    with pytest.raises(SettingsError, match=r"modell .*Did you mean model\?"):
        load({}, config=config)


def test_engine_args_from_flag_environment_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load({"model": "x", "engine_args": '{"block_size": 32}'}).engine_args == {"block_size": 32}
    config = tmp_path / "c.toml"
    config.write_text('model = "m"\n[engine_args]\nblock_size = 64\n')
    assert load({}, config=config).engine_args == {"block_size": 64}
    monkeypatch.setenv("LORAGATE_ENGINE_ARGS", '{"block_size": 16}')
    assert load({"model": "x"}).engine_args == {"block_size": 16}


def test_a_table_of_the_file_is_replaced_and_not_merged(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('model = "m"\n[engine_args]\nblock_size = 64\nseed = 1\n')
    for value in ('{"block_size": 32}', {"block_size": 32}):
        assert load({"engine_args": value}, config=config).engine_args == {"block_size": 32}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: There is no such file."),
        (b"model = ", "is not TOML"),
        (b"model = '\xff'", "is not TOML"),
        (b"engine_args = 3", "--engine-args 3: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    config = tmp_path / "c.toml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load({"demo": True}, config=config)
    assert words in str(caught.value)


def test_a_variable_that_is_no_json_object_names_setting_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGATE_LIMITS", "[1]")
    with pytest.raises(SettingsError, match=r"--limits \[1\]: This must be a JSON object, not list\."):
        load({"model": "x"})


def test_every_field_has_help() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description and len(field.description) > 10, name


def test_settings_are_frozen() -> None:
    settings = load({"model": "x"})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_only_settings_touch_the_environment() -> None:
    root = Path(__file__).parents[4]
    for package in ("server", "adapters", "sampling"):
        for file in (root / package).rglob("*.py"):
            # The others hand it on, to a child, OpenMP or the tokenizers; they read no setting of ours from it.
            if file.name not in (
                "process_environment.py",
                "environment.py",
                "fork_server.py",
                "heartbeat.py",
                "scan.py",
                "openmp.py",
                "service_links.py",
                "settings.py",
                "variables.py",
            ):
                assert "os.environ" not in file.read_text() and "getenv" not in file.read_text(), file
