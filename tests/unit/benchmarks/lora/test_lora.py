"""What `benchmarks lora` starts, and the floors that it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import demo
from adapters.artifact import BaseShape
from benchmarks.harness import shapes
from benchmarks.harness.servers import EngineFlags, ServerFailed, scratch, start_process
from benchmarks.lora.servers import floors, write_adapters, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("qwen2.5-0.5b", tmp_path_factory.mktemp("lora") / "model")


def test_a_model_folder_has_the_shape_and_the_demos_tokenizer(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((demo.MODEL_DIR / "config.json").read_text())
    assert config["hidden_size"] == shapes.load("qwen2.5-0.5b")["hidden_size"]
    assert config["eos_token_id"] == tokenizer["eos_token_id"]
    assert (model / "tokenizer.json").read_bytes() == (demo.MODEL_DIR / "tokenizer.json").read_bytes()
    assert not list(model.glob("*.safetensors"))


def test_floors_are_those_of_the_issue(model: Path) -> None:
    """One adapter adds about 2.5 % of the multiplications per row; four are about 7 % of a decode step's bytes."""
    limit = floors(BaseShape.from_config(model / "config.json"), adapters=4, rank=16)
    assert 1 / limit.prefill - 1 == pytest.approx(0.0246, abs=0.0005)
    assert 1 / limit.decode - 1 == pytest.approx(0.0712, abs=0.0005)


def test_adapters_are_named_as_the_tenant_calls_them(tmp_path: Path) -> None:
    made = write_adapters(demo.MODEL_DIR, tmp_path, 2)
    assert list(made) == ["bench-a0", "bench-a1"]
    assert all((folder / "adapter_model.safetensors").exists() for folder in made.values())


def test_flags_left_to_the_server_are_not_named() -> None:
    flags = EngineFlags(model=Path("m"), name="n", dtype="auto")
    assert "--dtype" not in flags.engine() and "--max-model-len" not in flags.engine()
    assert "--max-model-len 512" in " ".join(EngineFlags(Path("m"), "n", max_model_len=512).engine())


def test_a_server_that_ends_at_once_is_told_with_its_last_words() -> None:
    with scratch() as home:
        server = start_process("broken", ["sh", "-c", "echo no such flag; exit 3"], 1, "/ready", home)
        with server, pytest.raises(ServerFailed, match=r"ended with 3:\nno such flag"):
            server.wait_ready()
    assert not home.exists()


@pytest.mark.slow
def test_a_server_is_stopped_with_all_that_it_started() -> None:
    with scratch() as home:
        with start_process("stubborn", ["sh", "-c", "sleep 300 & wait"], 1, "/ready", home) as server:
            while len(server.processes()) < 2:
                pass
            below = server.processes()
        assert not any(process.is_running() for process in below)
