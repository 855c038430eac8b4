"""Tries a compiled grammar before the engine gets it: does any answer match it, and how much time do its steps take?

Random walks through the grammar, always the same ones for one grammar. A walk ends where the answer may end, where no
token is allowed, or after MAX_STEPS tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from server.engine.decoding.grammars.errors import GrammarRefused, TooComplex
from server.engine.decoding.grammars.watched_grammar import DEAD_END, TOO_SLOW, WatchedGrammar

MAX_STEPS = 48
#: Walks of a grammar whose first walk ended where no token is allowed.
MAX_WALKS = 16


def probe_grammar(
    start: Callable[[], StructuredOutputGrammar], vocab_size: int, seed: str, end_token: int
) -> None:
    """Walk through a grammar.

    Args:
        start: makes the grammar anew, at its beginning.
        vocab_size: V, the number of tokens.
        seed: decides the walks.
        end_token: the token that ends an answer.

    Raises:
        GrammarRefused: no answer matches it, as far as the walks tell.
        TooComplex: a walk took more time than the engine would spend.
    """
    draw = random.Random(seed)
    for _ in range(MAX_WALKS):
        failed = _walk(WatchedGrammar(start()), vocab_size, draw, end_token)
        if failed == TOO_SLOW:
            raise TooComplex("it takes too long to find the allowed tokens of a step")
        if failed is None:
            return
    raise GrammarRefused("no answer can match it")


def _walk(grammar: WatchedGrammar, vocab_size: int, draw: random.Random, end_token: int) -> str | None:
    """Why the walk failed, or None."""
    mask = torch.zeros((1, (vocab_size + 31) // 32), dtype=torch.int32)
    for _ in range(MAX_STEPS):
        grammar.fill_bitmask(mask, 0)
        if grammar.failed:
            return grammar.failed
        token = _token(mask, vocab_size, draw)
        if token == end_token:
            return None
        if token is None:
            return DEAD_END
        grammar.accept_tokens("", [token])
        if grammar.is_terminated():
            return None
    return None


def _token(mask: torch.Tensor, vocab_size: int, draw: random.Random) -> int | None:
    """A random allowed token; None where the mask allows none."""
    words = mask[0].numpy()
    (used,) = words.nonzero()
    if not len(used):
        return None
    at = int(used[draw.randrange(len(used))])
    bits = int(words[at]) & 0xFFFFFFFF
    allowed = [at * 32 + bit for bit in range(32) if bits >> bit & 1 and at * 32 + bit < vocab_size]
    return draw.choice(allowed) if allowed else None
