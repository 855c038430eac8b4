"""Which tokens end an answer of the served base model.

A Qwen *base* checkpoint has `<|endoftext|>` as its end token while its chat template ends turns with
`<|im_end|>`: served as it is, it goes on to write the user's next turn. An *instruct* checkpoint names both
in its generation_config.json. So the end tokens are read from tokenizer, generation config and template.

NOTE: vLLM adds only what tokenizer and generation config say (`update_from_generation_config`), and reads the
latter from a folder, never from `override_generation_config`. To give it these tokens, point its
`generation_config` at a folder whose generation_config.json has them as `eos_token_id`: then `ignore_eos` and
`min_tokens` keep their meaning, which they would not for tokens added to a request's `stop_token_ids`.
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

    With a chat template that is ChatML, `<|im_end|>` is among them. If it was not already an end token of the
    model, the model may not have learned it, and `<|im_start|>` ends an answer too: it opens the next turn.

    Arguments are the parsed JSON of tokenizer_config.json and generation_config.json, the text of the
    template that is served (None when there is none), and tokenizer.json, which names the added tokens where
    tokenizer_config.json does not.

    Returns ids; a token whose id none of the files tells is returned as its text.

    Raises:
        NoEndToken: nothing ends an answer.
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
            "ends an answer; add eos_token or eos_token_id."
        )
    return tuple(dict.fromkeys(ends))


def added_tokens(
    tokenizer_config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Text → id of the tokens that stand outside the vocabulary proper.

    From `added_tokens_decoder` of tokenizer_config.json and `added_tokens` of tokenizer.json.
    """
    found = {entry["content"]: int(entry["id"]) for entry in (tokenizer or {}).get("added_tokens", ())}
    decoder: Mapping[str, Any] = tokenizer_config.get("added_tokens_decoder") or {}
    return found | {entry["content"]: int(token_id) for token_id, entry in decoder.items()}


def _text(token: Any) -> str | None:
    """A token as tokenizer_config.json writes it: its text, or an object with its text."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _listed(eos_token_id: Any) -> list[Token]:
    if eos_token_id is None:
        return []
    return [int(item) for item in eos_token_id] if isinstance(eos_token_id, list) else [int(eos_token_id)]
