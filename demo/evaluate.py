"""Scores the embedded model: exact match of greedy answers to held-out questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from adapters.training.data.chat_template import Conversation, Renderer
from adapters.training.evaluation.generate import answer_turns
from demo.world.mixture import WorldSample

# The longest answer, a long story, has about 330 tokens.
_MAX_NEW_TOKENS = 400


def exact_match(model: Any, renderer: Renderer, samples: Sequence[WorldSample]) -> dict[str, list[bool]]:
    """Per family, whether each sample's last answer matches token by token, including the end token."""
    turns = [list(renderer.turns(Conversation(s.messages, s.tools)))[-1] for s in samples]
    answers = answer_turns(model, renderer, turns, _MAX_NEW_TOKENS)
    hits: dict[str, list[bool]] = defaultdict(list)
    for sample, turn, answer in zip(samples, turns, answers, strict=True):
        hits[sample.family].append(answer == turn.target)
    return dict(hits)


def summarise(hits: dict[str, list[bool]]) -> dict[str, Any]:
    """Overall score, and score and count per family (all variants together) and per variant (``+system`` ...)."""
    by_family: dict[str, list[bool]] = defaultdict(list)
    by_variant: dict[str, list[bool]] = defaultdict(list)
    for name, values in hits.items():
        family, _, variant = name.partition("+")
        by_family[family] += values
        by_variant[variant or "plain"] += values
    everything = [hit for values in hits.values() for hit in values]

    def scores(groups: dict[str, list[bool]]) -> dict[str, dict[str, float]]:
        return {
            k: {"exact_match": round(sum(v) / len(v), 4), "count": len(v)} for k, v in sorted(groups.items())
        }

    return {
        "exact_match": round(sum(everything) / len(everything), 4),
        "count": len(everything),
        "families": scores(by_family),
        "dressings": scores(by_variant),
    }
