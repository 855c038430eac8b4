"""Finds the tokens that end an answer of the served base model.

A Qwen *base* checkpoint has `<|endoftext|>` as its end token, but its chat template ends turns with `<|im_end|>`:
without a correction it continues with the user's next turn. An *instruct* checkpoint lists both in its
generation_config.json. So the end tokens are read from tokenizer, generation config and template.

NOTE: vLLM uses only the tokens of tokenizer and generation config (`update_from_generation_config`), and reads the
latter from a folder, never from `override_generation_config`. To pass more tokens, set its `generation_config` to a
folder whose generation_config.json lists them as `eos_token_id`: then `ignore_eos` and `min_tokens` include them,
which is not so for tokens in a request's `stop_token_ids`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sampling.errors import NoEndToken

TURN_END: Final = "<|im_end|>"
TURN_START: Final = "<|im_start|>"
TEXT_END: Final = "<|endoftext|>"

Token = str | int


def end_tokens(
    tokenizer_config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    chat_template: str | None,
    tokenizer: Mapping[str, Any] | None = None,
) -> tuple[Token, ...]:
    """The tokens that end an answer: the tokenizer's own end token first, each once.

    With a ChatML template, `<|im_end|>` is one of them. If it was not already an end token of the model, the model
    may not have learned it, so `<|im_start|>`, which opens the next turn, also ends an answer.

    Arguments are the parsed JSON of tokenizer_config.json and generation_config.json, the text of the served
    template (None without one), and tokenizer.json, which lists the added tokens when tokenizer_config.json does
    not.

    Returns ids; a token whose id is in none of the files is returned as its text.

    Raises:
        NoEndToken: no token ends an answer.
    """
    ids = added_tokens(tokenizer_config, tokenizer)
    ends: list[Token] = []
    if (own := _text(tokenizer_config.get("eos_token"))) is not None:
        ends.append(ids.get(own, own))
    ends += _listed(generation_config.get("eos_token_id"))
    if TEXT_END in ids:
        ends.append(ids[TEXT_END])
    if chat_template is not None and TURN_END in chat_template:
        turn_end = ids.get(TURN_END, TURN_END)
        ends += [turn_end] if turn_end in ends else [turn_end, ids.get(TURN_START, TURN_START)]
    if not ends:
        raise NoEndToken(
            "The model's tokenizer_config.json, generation_config.json and chat template name no token that "
            "ends an answer. Add eos_token or eos_token_id."
        )
    return tuple(dict.fromkeys(ends))


def added_tokens(
    tokenizer_config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Text → id of the tokens that were added to the vocabulary.

    From `added_tokens_decoder` of tokenizer_config.json and `added_tokens` of tokenizer.json.
    """
    found = {entry["content"]: int(entry["id"]) for entry in (tokenizer or {}).get("added_tokens", ())}
    decoder: Mapping[str, Any] = tokenizer_config.get("added_tokens_decoder") or {}
    return found | {entry["content"]: int(token_id) for token_id, entry in decoder.items()}


def _text(token: Any) -> str | None:
    """The text of a token in tokenizer_config.json: a string, or an object with its content."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _listed(eos_token_id: Any) -> list[Token]:
    if eos_token_id is None:
        return []
    return [int(item) for item in eos_token_id] if isinstance(eos_token_id, list) else [int(eos_token_id)]
