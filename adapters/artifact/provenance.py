"""What an adapter's folder has beside the weights: the server answers without it, and says so.

The facts are read when a version is added, from the first 512 KiB of each file, and are compared with the served base
model whenever the version is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.artifact.digests import template_digest
from adapters.artifact.files import BESIDE_MAX_BYTES, CONFIG, open_plain, printable_value, read_json
from adapters.artifact.overlap import overlap_hint
from adapters.errors import ArtifactRefused
from adapters.names import base_model_name

_TOKENS_SHOWN = 10
_ADDED_TOKENS = '"added_tokens":'
_QUANTIZED = re.compile(r"([-_.](unsloth|bnb|awq|gptq|int[48]|[48]bit|fp8|w4a16|gguf|q[48]\w*))+$")


def read_provenance(
    folder: Path,
    hints: Sequence[str] = (),
    *,
    base_tokens: Collection[str] | None = None,
    base_folder: Path | None = None,
) -> dict[str, Any]:
    """The facts about an adapter folder that is otherwise in order; a file that cannot be read says nothing.

    Args:
        folder: the fetched files.
        hints: those of the check (`ArtifactReport.hints`).
        base_tokens: the tokens that the base model's tokenizer has beside its vocabulary; None: unknown.
        base_folder: the base model's files; None: its weights are not compared.

    Returns: as far as known, `base_model` (its name), `template_digest`, `end_token`, of the tokens that the base
    model lacks the first ten (`added_tokens`) and the number (`added_tokens_count`), and `hints` (sentences).
    """
    overlap = overlap_hint(folder, base_folder) if base_folder is not None else None
    found = [*hints, *([overlap] if overlap else [])]
    return {**_facts(folder, base_tokens), **({"hints": found} if found else {})}


def _facts(folder: Path, base_tokens: Collection[str] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    named = read_json(folder / CONFIG).get("base_model_name_or_path")
    if isinstance(named, str) and named:
        facts["base_model"] = printable_value(base_model_name(named), 100)
    tokenizer = _read(folder / "tokenizer_config.json")
    if digest := _template_digest(folder):
        facts["template_digest"] = digest
    end = tokenizer.get("eos_token")
    end = end.get("content") if isinstance(end, Mapping) else end
    if isinstance(end, str) and end:
        facts["end_token"] = printable_value(end)
    if base_tokens is not None:
        lacking = sorted(added_tokens(folder) - set(base_tokens))
        if lacking:
            facts["added_tokens"] = [printable_value(token, 40) for token in lacking[:_TOKENS_SHOWN]]
            facts["added_tokens_count"] = len(lacking)
    return facts


def added_tokens(folder: Path) -> set[str]:
    """The tokens that the tokenizer in a folder has beside its vocabulary; none where there is no tokenizer."""
    return {*_added_in_tokenizer(folder / "tokenizer.json"), *_added_in_config(folder)}


def provenance_warnings(
    brought: Mapping[str, Any] | None,
    *,
    base_name: str,
    template: str | None,
    end_tokens: Collection[str | int],
) -> list[str]:
    """What the server will not use of an adapter, and what may be wrong with it, one sentence each.

    Args:
        brought: the facts of `read_provenance`.
        base_name: name of the served base model.
        template: SHA-256 of the served chat template.
        end_tokens: the tokens that end an answer.
    """
    facts = brought or {}
    found = list(facts.get("hints", ()))
    base = facts.get("base_model")
    if base and _same_model(base) != _same_model(base_name):
        found.append(
            f"Its configuration names the base model {base}, and this server has {base_name}. If these are not the "
            "same weights, its answers are not those of the training: train it again on this base model."
        )
    if facts.get("template_digest") not in (None, template):
        found.append(
            "It brings a chat template of its own, which is not used: prompts are rendered with the served one. If "
            "it was trained with its own, serve that (--chat-template) or train it again."
        )
    if tokens := facts.get("added_tokens"):
        found.append(_added_tokens_warning(tokens, facts["added_tokens_count"]))
    end = facts.get("end_token")
    if end and end_tokens and end not in end_tokens:
        found.append(
            f"Its tokenizer ends answers with {end}, which is not an end token of the served base model. If it was "
            "trained so, its answers do not end: train it again with an end token of this base model."
        )
    return found


def _added_tokens_warning(tokens: list[str], count: int) -> str:
    more = f" and {count - len(tokens)} more" if count > len(tokens) else ""
    return (
        f"It brings a tokenizer with {count} token{'s' * (count > 1)} that the base model lacks "
        f"({', '.join(tokens)}{more}). The base model's tokenizer is used, which writes them with several tokens."
    )


def _same_model(name: str) -> str:
    """Names of one model in other precisions are equal: what was trained on 4 bits is served on 16."""
    return _QUANTIZED.sub("", name.lower())


def _template_digest(folder: Path) -> str | None:
    try:
        return template_digest(folder)
    except (ValueError, OSError, AttributeError, RecursionError):
        return None


def _added_in_config(folder: Path) -> Iterator[str]:
    decoder = _read(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for entry in decoder.values() if isinstance(decoder, Mapping) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), str):
            yield entry["content"]
    yield from _read(folder / "added_tokens.json")


def _added_in_tokenizer(file: Path) -> Iterator[str]:
    """NOTE: only the beginning of the file is there, which has the added tokens before the vocabulary."""
    try:
        with open_plain(file) as opened:
            text = opened.read(BESIDE_MAX_BYTES).decode("utf-8", errors="ignore")
        start = text.index(_ADDED_TOKENS) + len(_ADDED_TOKENS)
        entries, _ = json.JSONDecoder().raw_decode(text[start:].lstrip())
    except (ValueError, RecursionError, ArtifactRefused):
        return
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), str):
            yield entry["content"]


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except ArtifactRefused:
        return {}
