"""The five sections: data, format, masking, end token, evaluation. Each adds its figures to ``figures``."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapters.training.check.findings import Finding, Level, finding_factory
from adapters.training.check.scan import DatasetScan
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Conversation, Renderer, Sample
from adapters.training.data.quality import (
    FEW_CHATS,
    NearDuplicates,
    calls_survive,
    count_control_tokens,
    size_advice,
)
from adapters.training.data.reader import normalised
from adapters.training.data.tool_calls import looks_like_bare_call

FEW_HELD_OUT = 20
_LONG_ANSWER_WORDS = 20
_CLOSED = tuple(".!?…:;)]}\"'`*|>%。！？”’»")


def validate_data(scan: DatasetScan, config: TrainingConfig, figures: dict[str, Any]) -> Iterator[Finding]:
    """Number of chats, broken lines, duplicates, cut and too long answers."""
    finding = finding_factory("data")
    chats = len(scan.chats)
    spread = _spread([len(s.ids) for s in scan.samples])
    cut = sum(_looks_cut(t.answer) for _, t in scan.turns)
    figures |= {
        "chats": chats,
        "broken_lines": len(scan.broken),
        "assistant_turns": len(scan.turns),
        "samples": len(scan.samples),
        "sample_tokens": spread,
    }
    yield finding(not scan.broken, f"{chats} chats read, {len(scan.broken)} lines unusable", scan.broken)
    yield finding(chats >= FEW_CHATS, size_advice(chats), worst=Level.WARN)
    if spread:
        yield finding(
            True,
            f"{len(scan.samples)} samples of {spread['least']} to {spread['most']} (median {spread['median']}, "
            f"95 % below {spread['p95']}) tokens",
        )
    yield from _validate_duplicates(scan, figures)
    figures |= {
        "cut_answers": cut,
        "turns_too_long": scan.long_turns,
        "chats_lost_to_length": scan.lost_chats,
    }
    yield finding(not cut, f"{cut} long answers end in the middle of a sentence", worst=Level.WARN)
    yield finding(
        not scan.long_turns,
        f"{scan.long_turns} turns end after --max-length-tokens {config.max_length_tokens} and are left out "
        f"completely; {scan.lost_chats} chats lose all their turns",
        worst=Level.WARN,
    )


def _validate_duplicates(scan: DatasetScan, figures: dict[str, Any]) -> Iterator[Finding]:
    finding = finding_factory("data")
    texts = [_text_of(chat) for chat in scan.chats]
    repeated = len(texts) - len({text.lower() for text in texts})
    index = NearDuplicates()
    similar = max(sum(index.add(text) is not None for text in texts) - repeated, 0)
    figures |= {"duplicates": repeated, "near_duplicates": similar}
    yield finding(not repeated, f"{repeated} chats are in the file more than once", worst=Level.WARN)
    yield finding(
        similar <= len(texts) * 0.1,
        f"{similar} chats are nearly equal to an earlier one (80 % of their three-word runs are the same)",
        worst=Level.WARN,
    )


def validate_format(scan: DatasetScan, renderer: Renderer, figures: dict[str, Any]) -> Iterator[Finding]:
    """Formats, the base's template, tool calls and control tokens."""
    finding = finding_factory("format")
    forms = Counter(c.form for c in scan.chats)
    tools = sum(bool(c.tools) for c in scan.chats)
    calls = [t for _, t in scan.turns if t.answer.get("tool_calls")]
    figures |= {"forms": dict(forms), "chats_with_tools": tools, "turns_with_calls": len(calls)}
    shown = ", ".join(f"{n} {form}" for form, n in forms.items())
    yield finding(
        True, f"format: {shown or 'no chats'}; {tools} chats with tools, {len(calls)} turns with calls"
    )
    yield finding(
        not scan.template_errors,
        f"{len(scan.template_errors)} chats do not fit the base's template",
        scan.template_errors,
    )
    unread = sum(not calls_survive(t, renderer) for t in calls)
    figures["calls_not_parsed"] = unread
    if calls:
        yield finding(not unread, f"the hermes parser would not read back the calls of {unread} turns")
    bare = sum(
        looks_like_bare_call(t.answer["content"], {f["function"]["name"] for f in c.tools})
        for c, t in scan.turns
        if c.tools and t.answer["content"].lstrip()[:1] in "{["
    )
    figures["bare_calls"] = bare
    yield finding(not bare, f"{bare} answers are the JSON of a call without its <tool_call> tags")
    control = count_control_tokens(scan.chats, renderer.tokenizer.all_special_tokens)
    figures["control_token_messages"] = control
    yield finding(not control, f"{control} messages have a control token in their text", worst=Level.WARN)


def validate_masking(scan: DatasetScan, figures: dict[str, Any]) -> Iterator[Finding]:
    """Trained tokens, and one trained span for each assistant turn."""
    finding = finding_factory("masking")
    tokens = sum(len(s.ids) for s in scan.samples)
    trained = sum(s.trained_tokens for s in scan.samples)
    share = trained / tokens if tokens else 0.0
    figures |= {"tokens": tokens, "trained_tokens": trained, "trained_share": round(share, 4)}
    yield finding(
        trained > 0, f"{trained} of {tokens} tokens are trained ({share:.0%}): only those of assistant turns"
    )
    spans = sum(len(_trained_spans(s)) for s in scan.samples)
    expected = sum(bool(t.answer.get("weight", 1)) for _, t in scan.turns) - scan.long_turns
    figures["trained_stretches"] = spans
    yield finding(spans >= expected, f"{spans} trained spans for {expected} assistant turns")


def validate_end_token(
    scan: DatasetScan, config: TrainingConfig, renderer: Renderer, figures: dict[str, Any]
) -> Iterator[Finding]:
    """Whether every trained span ends with the end token, and whether the base stops there."""
    finding = finding_factory("end token")
    spans = [span for s in scan.samples for span in _trained_spans(s)]
    missing = sum(span[-1] != renderer.end_id for span in spans)
    figures["missing_end_tokens"] = missing
    yield finding(not missing, f"{missing} of {len(spans)} trained spans do not end with {config.end_token}")
    configured = renderer.end_id in _configured_end_ids(config.base)
    yield finding(
        configured,
        f"the base's own configuration stops at {config.end_token}"
        if configured
        else f"the base's own configuration does not stop at {config.end_token}: loragate adds it from the "
        "template, but stock vLLM would not stop there",
        worst=Level.WARN,
    )
    if renderer.tokenizer.pad_token_id == renderer.end_id:
        yield finding(
            True,
            "padding and end token are the same; padding is masked by position, so the end token stays trained",
        )


def validate_evaluation(
    train: Sequence[Conversation], held_out: Sequence[Conversation], broken: int, figures: dict[str, Any]
) -> Iterator[Finding]:
    """The number of held-out chats, and questions that are also in the training chats."""
    finding = finding_factory("evaluation")
    figures |= {"held_out_chats": len(held_out), "held_out_broken_lines": broken}
    enough = len(held_out) >= FEW_HELD_OUT
    yield finding(
        enough,
        f"{len(held_out)} chats held out"
        + ("" if enough else f"; a score over fewer than {FEW_HELD_OUT} is not reliable"),
        worst=Level.WARN,
    )
    yield finding(not broken, f"{broken} held-out lines unusable")
    trained_on = {_questions(c) for c in train}
    leaked = [c for c in held_out if _questions(c) in trained_on]
    index = NearDuplicates(0.9)
    for chat in train:
        index.add(_questions(chat))
    similar = max(sum(index.find(_questions(c)) is not None for c in held_out) - len(leaked), 0)
    figures |= {"leaked": len(leaked), "nearly_leaked": similar}
    lines = [f"line {c.line}: {_questions(c)[:80]}" for c in leaked]
    yield finding(not leaked, f"{len(leaked)} held-out chats ask what a training chat asks", lines)
    yield finding(
        not similar, f"{similar} held-out chats ask nearly what a training chat asks", worst=Level.WARN
    )


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    if not lengths:
        return {}
    ordered = sorted(lengths)
    return {
        "least": ordered[0],
        "median": int(statistics.median(ordered)),
        "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        "most": ordered[-1],
    }


def _text_of(chat: Conversation) -> str:
    return "\n".join(
        f"{m['role']}: {m['content']}{json.dumps(m['tool_calls']) if m.get('tool_calls') else ''}"
        for m in chat.messages
    )


def _questions(chat: Conversation) -> str:
    """All user messages, in lower case and with single spaces."""
    return normalised(" ".join(str(m["content"]) for m in chat.messages if m["role"] == "user"))


def _trained_spans(sample: Sample) -> list[tuple[int, ...]]:
    """The runs of trained tokens in a sample."""
    runs = itertools.groupby(sample.labels, key=lambda label: label != IGNORED)
    return [tuple(labels) for trained, labels in runs if trained]


def _looks_cut(answer: Any) -> bool:
    text = answer["content"].rstrip()
    if answer.get("tool_calls") or len(text.split()) < _LONG_ANSWER_WORDS:
        return False
    return text.count("```") % 2 == 1 or not text.endswith(_CLOSED)


def _configured_end_ids(base: Path) -> frozenset[int]:
    """The ids at which stock vLLM ends an answer, from ``generation_config.json`` or ``config.json``."""
    for name in ("generation_config.json", "config.json"):
        path = base / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
