"""What an adapter's folder has beside the weights is told if, and only if, the served base model differs from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import demo
from adapters.artifact.digests import template_digest
from adapters.artifact.provenance import added_tokens, provenance_warnings, read_provenance
from adapters.names import base_model_name
from tests.unit.adapters.building import make_config, write_adapter

BASE_TOKENS = added_tokens(demo.MODEL_DIR)
SERVED: dict[str, Any] = {
    "base_name": "Qwen2.5-0.5B-Instruct",
    "template": template_digest(demo.MODEL_DIR),
    "end_tokens": ("<|im_end|>", 3298),
}


def told(folder: Path) -> list[str]:
    return provenance_warnings(read_provenance(folder, base_tokens=BASE_TOKENS), **SERVED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter with the base's own tokenizer beside it, as most trainers save it."""
    AutoTokenizer.from_pretrained(demo.MODEL_DIR).save_pretrained(tmp_path)
    return write_adapter(tmp_path)


def test_the_bases_own_tokenizer_and_template_are_no_news(folder: Path) -> None:
    assert (folder / "chat_template.jinja").is_file() and (folder / "tokenizer.json").is_file()
    assert told(folder) == []
    assert "<|im_end|>" in BASE_TOKENS


def test_a_bare_adapter_says_nothing(tmp_path: Path) -> None:
    write_adapter(tmp_path, config=make_config(base_model_name_or_path=None))
    assert (
        read_provenance(tmp_path, base_tokens=BASE_TOKENS) == {} and provenance_warnings(None, **SERVED) == []
    )


def test_an_own_template_is_told_wherever_it_is(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template + "{{ 1 }}")
    (warning,) = told(folder)
    assert warning.startswith("It brings a chat template of its own, which is not used")
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    assert told(folder) == []
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ 2 }}"}))
    assert len(told(folder)) == 1


def test_added_tokens_are_told_with_their_number(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(tmp_path)
    write_adapter(tmp_path)
    (warning,) = told(tmp_path)
    assert "a tokenizer with 1 token that the base model lacks (<call>)" in warning
    (tmp_path / "added_tokens.json").write_text(json.dumps({f"<t{n:02}>": n for n in range(12)}))
    (warning,) = told(tmp_path)
    assert "13 tokens" in warning and "<t00>" in warning and "and 3 more" in warning
    decoder = {"7": {"content": "<old>"}, "8": "no entry"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert "14 tokens" in told(tmp_path)[0]
    assert read_provenance(tmp_path).get("added_tokens") is None  # the base's tokenizer is unknown


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", False),
        ("unsloth/qwen2.5-0.5b-instruct-unsloth-bnb-4bit", False),
        ("Qwen/Qwen2.5-0.5B-Instruct-AWQ", False),
        ("Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4", False),
        ("/data/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/abc123", False),
        ("Qwen/Qwen2.5-0.5B", True),
        ("Qwen/Qwen2.5-1.5B-Instruct", True),
        ("/home/me/models/merged-v2/", True),
    ],
)
def test_another_base_is_told_by_its_name(tmp_path: Path, name: str, differs: bool) -> None:
    write_adapter(tmp_path, config=make_config(base_model_name_or_path=name))
    warnings = told(tmp_path)
    assert len(warnings) == differs
    if differs:
        assert (
            f"names the base model {base_model_name(name)}, and this server has Qwen2.5-0.5B-Instruct"
            in warnings[0]
        )
        assert "/home" not in warnings[0]


def test_another_end_of_answers_is_told(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for end in ("</s>", {"content": "</s>"}):
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": end}))
        assert "ends answers with </s>" in told(folder)[0]


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "chat_template.jinja"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[1]", b'{"added_tokens": [', b"[" * 100_000, b'"text"']
)
def test_files_that_cannot_be_read_say_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    write_adapter(tmp_path)
    (tmp_path / name).write_bytes(content)
    found = read_provenance(tmp_path, base_tokens=BASE_TOKENS)
    assert found.keys() <= {"base_model", "template_digest"}
