"""Texts for calibrating a quantizer: chats from a file, or texts that the model itself generates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.training.errors import DataError

Ids = list[int]

#: Every fifth text is held out, to measure the perplexity on.
_HELD_OUT_EVERY = 5
_GENERATED_TEXTS = 40
GENERATED_TOKENS = 192
_REPORTED_TOKENS = 32
_SEED = 7


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """Token ids to calibrate with, and to measure on; no text is in both."""

    calibration: list[Ids]
    held_out: list[Ids]


def read_texts(file: Path, tokenizer: Any) -> list[Ids]:
    """Token ids of each line's chat (``messages``, rendered with the model's template) or ``text``.

    Raises:
        DataError: the file or a line cannot be used.
    """
    if not file.is_file():
        raise DataError(f"{file.name} is not a file. Give a JSONL file with `messages` or `text` per line.")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            found.append(_text(line, number, tokenizer))
    return [tokenizer.encode(text, add_special_tokens=False) for text in dict.fromkeys(found)]


def _text(line: str, number: int, tokenizer: Any) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"Line {number} is not JSON: {error.msg} at column {error.colno}.") from error
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return str(row["text"])
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise DataError(f"Line {number} has neither `messages` (a list) nor `text` (a string).")
    text: str = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
    return text


def generate_texts(
    model: Any,
    tokenizer: Any,
    *,
    count: int = _GENERATED_TEXTS,
    tokens: int = GENERATED_TOKENS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Ids]:
    """Texts that the model samples at temperature 1 from the beginning of a user turn.

    Data-free calibration (Liu et al. 2023, LLM-QAT): a model's own samples are closer to its later inputs than any
    text that we could ship. Generation continues after end tokens, because the next turn is as useful. ``progress``
    gets the number of tokens of each text, and of all of it.
    """
    start = tokenizer.apply_chat_template(
        [{"role": "user", "content": "\0"}], tokenize=False, add_generation_prompt=False
    ).partition("\0")[0]
    prompt = torch.tensor([tokenizer.encode(start, add_special_tokens=False)] * count)

    def report(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        done = ids.shape[1] - prompt.shape[1]
        if done % _REPORTED_TOKENS == 0:
            progress(done, tokens)
        return torch.zeros(len(ids), dtype=torch.bool)  # goes on

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(_SEED)
        written = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            stopping_criteria=[report],
        )
    texts: list[Ids] = written.tolist()
    return texts


def split_texts(texts: Sequence[Ids], *, block_tokens: int, blocks: int) -> CalibrationTexts:
    """Hold out every fifth text, and join the others into at most ``blocks`` blocks of ``block_tokens``.

    NOTE: AutoAWQ can join texts too, but first drops every text that is longer than a block, silently.

    Raises:
        DataError: there are too few texts for both.
    """
    held_out = [ids for at, ids in enumerate(texts) if at % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1]
    rest = [ids for at, ids in enumerate(texts) if at % _HELD_OUT_EVERY != _HELD_OUT_EVERY - 1]
    row = [token_id for ids in rest for token_id in ids]
    if not held_out or len(row) < block_tokens:
        raise DataError(
            f"{len(texts)} different texts with {len(row)} tokens to calibrate with are too few. Give at least "
            f"{_HELD_OUT_EVERY} texts and {block_tokens} tokens (one in {_HELD_OUT_EVERY} texts is held out), or a "
            "smaller --block-tokens."
        )
    count = min(blocks, len(row) // block_tokens)
    return CalibrationTexts(
        [row[at * block_tokens : (at + 1) * block_tokens] for at in range(count)], held_out
    )


def perplexity(model: Any, texts: Sequence[Ids], *, most_tokens: int) -> float:
    """exp of the mean negative log-likelihood per token; each text is cut to ``most_tokens``."""
    nats, tokens = 0.0, 0
    with torch.inference_mode():
        for ids in texts:
            row = torch.tensor([ids[:most_tokens]], device=model.device)
            if row.shape[1] < 2:
                continue
            logits = model(row).logits[0, :-1].float()
            nats += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
            tokens += row.shape[1] - 1
    return float(torch.tensor(nats / max(tokens, 1)).exp())
