"""The texts of tokens in log-probabilities, and the bytes of those that are only a piece of a character.

A tokenizer with bytes in its vocabulary can split a character over tokens. vLLM shows such a token as "", and the one
that completes the character as the whole of it, so alternatives look the same and none has its bytes. Here each token
has its own bytes, and its text is written as OpenAI writes it: `\\xf0\\x9f`.
vLLM decodes each token of each step again, 20 µs for one: 13 ms for 16 sequences with 20 each. Here each token is
decoded once.
Leans on (vLLM 0.32): as `server.engine.rendering.logprobs`; tokenizers.decoders (`ByteLevel`, `ByteFallback`);
`convert_ids_list_to_tokens` of vllm.v1.engine.logprobs, which decodes each id by itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from transformers.convert_slow_tokenizer import bytes_to_unicode
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine import logprobs as engine_logprobs

_BYTE_OF: Final[Mapping[str, int]] = {character: byte for byte, character in bytes_to_unicode().items()}
_FALLBACK: Final = re.compile(r"<0x([0-9A-F]{2})>")
_REPLACEMENT: Final = "\ufffd".encode()
#: The smallest log-probability that vLLM writes.
_LEAST: Final = -9999.0
_KEPT_TOKENIZERS: Final = 4


class _ShownToken(str):
    """The bytes of a piece as text; its length is that of its part of the answer's text, where offsets count."""

    text_chars: int = 0

    def __len__(self) -> int:
        return self.text_chars


class TokenPieces:
    """Which tokens of a vocabulary are pieces of characters; each is looked up once."""

    def __init__(self, tokenizer: Any) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        decoder = getattr(backend, "decoder", None)
        kind = bytes(decoder.__getstate__()) if decoder is not None else b""
        self._backend = backend
        self._is_byte_level = b'"ByteLevel"' in kind
        self._has_fallback = b'"ByteFallback"' in kind
        self._added = frozenset(getattr(tokenizer, "added_tokens_decoder", ()))
        self._known: dict[int, bytes | None] = {}

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes of a token that is no text by itself; None for any other one."""
        try:
            return self._known[token_id]
        except KeyError:
            return self._known.setdefault(token_id, self._look_up(token_id))

    def _look_up(self, token_id: int) -> bytes | None:
        if token_id in self._added or not (self._is_byte_level or self._has_fallback):
            return None
        written = self._backend.id_to_token(token_id)
        if written is None:
            return None
        if self._has_fallback:
            found = _FALLBACK.fullmatch(written)
            raw = bytes.fromhex(found[1]) if found else b""
        elif all(character in _BYTE_OF for character in written):
            raw = bytes(_BYTE_OF[character] for character in written)
        else:
            return None
        # vLLM takes a token that is the replacement character itself for a piece, too.
        return raw if _REPLACEMENT in raw or not _is_text(raw) else None


class TokenTexts(dict[int, str]):
    """The text of each token of a vocabulary, as vLLM decodes it; no more than the vocabulary has."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        (text,) = convert_ids_list_to_tokens(self._tokenizer, [token_id])
        return self.setdefault(token_id, text)


def install() -> None:
    """Let vLLM's output processor decode each token once. Idempotent."""
    vars(engine_logprobs).update(convert_ids_list_to_tokens=token_texts)


def token_texts(tokenizer: Any, token_ids: list[int]) -> list[str]:
    """The text of each token by itself."""
    return list(map(_texts_of(tokenizer).__getitem__, token_ids))


@functools.lru_cache(_KEPT_TOKENIZERS)
def _texts_of(tokenizer: Any) -> TokenTexts:
    return TokenTexts(tokenizer)


def with_bytes(create: Callable[..., Any], lists: str) -> Callable[..., Any]:
    """vLLM's function for the logprobs of a chat or response, whose entries get their own bytes.

    Args:
        create: its arguments are named.
        lists: its argument with the logprobs of each token.
    """

    def create_with_bytes(**arguments: Any) -> Any:
        made = create(**arguments)
        pieces = _pieces_of(arguments["tokenizer"])
        entries = made if isinstance(made, list) else made.content
        for at, (entry, token_id) in enumerate(zip(entries, arguments["token_ids"], strict=False)):
            step = arguments[lists][at] or {}
            _spell(entry, token_id, step.get(token_id), pieces)
            for top, (top_id, logprob) in zip(entry.top_logprobs or (), step.items(), strict=False):
                _spell(top, top_id, logprob, pieces)
        return made

    return create_with_bytes


def with_shown_pieces(create: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's function for the logprobs of a completion, which have no bytes: the texts of pieces show them."""

    def create_with_pieces(**arguments: Any) -> Any:
        made = create(**arguments)
        pieces, tokenizer = _pieces_of(arguments["tokenizer"]), arguments["tokenizer"]
        asked = arguments.get("num_output_top_logprobs") or 0
        all_of_them = bool(arguments.get("logprob_token_ids")) or asked == -1
        for at, token_id in enumerate(arguments["token_ids"]):
            if made.tokens[at] == f"token_id:{token_id}":
                continue
            step = arguments["top_logprobs"][at]
            made.tokens[at] = _shown(made.tokens[at], pieces.bytes_of(token_id))
            if step and any(pieces.bytes_of(each) is not None for each in step):
                shown = list(step.items())[: None if all_of_them else asked + 1]
                made.top_logprobs[at] = {
                    _shown(_text(logprob, each, tokenizer), pieces.bytes_of(each)): max(
                        logprob.logprob, _LEAST
                    )
                    for each, logprob in shown
                }
        return made

    return create_with_pieces


@functools.lru_cache(_KEPT_TOKENIZERS)
def _pieces_of(tokenizer: Any) -> TokenPieces:
    return TokenPieces(tokenizer)


def _spell(entry: Any, token_id: int, logprob: Any, pieces: TokenPieces) -> None:
    """Give an entry the bytes of its token, and its text unless that is the token's id."""
    raw = pieces.bytes_of(token_id)
    if entry.token == f"token_id:{token_id}":
        text = getattr(logprob, "decoded_token", None)
        if raw is None and text is not None:
            raw = text.encode("utf-8", "replace")
    elif raw is not None:
        entry.token = _as_text(raw)
    if raw is not None:
        entry.bytes = list(raw)


def _shown(text: str, raw: bytes | None) -> str:
    if raw is None:
        return text
    shown = _ShownToken(_as_text(raw))
    shown.text_chars = len(text)
    return shown


def _text(logprob: Any, token_id: int, tokenizer: Any) -> str:
    return str(tokenizer.decode([token_id]) if logprob.decoded_token is None else logprob.decoded_token)


def _as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
