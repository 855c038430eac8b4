"""Validation of a dataset: the sections of the report over all chats. Each adds its figures to ``figures``."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapters.training.check.facts import Answer, ChatFacts
from adapters.training.check.faults import RULES
from adapters.training.check.findings import Finding, Level, finding_factory
from adapters.training.check.scan import DatasetScan
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.quality import FEW_CHATS, NearDuplicates, dataset_size_advice

FEW_HELD_OUT = 20
_SIGNATURES = 3  # answers with the same last sentence


def count_cut(answers: Sequence[Answer]) -> int:
    """How many answers break off. An ending that several answers have, such as a signature, breaks nothing off."""
    endings = Counter(answer.closing for answer in answers if answer.closing)
    return sum(answer.is_cut and endings[answer.closing] < _SIGNATURES for answer in answers)


def validate_data(scan: DatasetScan, config: TrainingConfig, figures: dict[str, Any]) -> Iterator[Finding]:
    """Number of chats, broken lines, duplicates, cut and too long answers."""
    finding = finding_factory("data")
    chats = len(scan.chats)
    lengths = [tokens for f in scan.chats for tokens in f.sample_tokens]
    spread = _spread(lengths)
    cut = count_cut([answer for f in scan.chats for answer in f.answers])
    long_turns = sum(f.long_turns for f in scan.chats)
    lost = sum(not f.sample_tokens and not f.template_error for f in scan.chats)
    figures |= {
        "chats": chats,
        "broken_lines": len(scan.broken),
        "assistant_turns": sum(f.turns for f in scan.chats),
        "samples": len(lengths),
        "sample_tokens": spread,
    }
    broken = f"{chats} chats read, {len(scan.broken)} lines unusable"
    yield finding(
        not scan.broken,
        broken if not scan.broken else f"{broken} (--skip-unusable trains without them)",
        scan.broken,
    )
    yield finding(chats >= FEW_CHATS, dataset_size_advice(chats), worst=Level.WARN)
    if spread:
        yield finding(
            True,
            f"{len(lengths)} samples of {spread['least']} to {spread['most']} (median {spread['median']}, "
            f"95 % below {spread['p95']}) tokens",
        )
    yield from _validate_duplicates(scan.chats, figures)
    figures |= {"cut_answers": cut, "turns_too_long": long_turns, "chats_lost_to_length": lost}
    yield finding(not cut, f"{cut} long answers end in the middle of a sentence", worst=Level.WARN)
    yield finding(
        not long_turns,
        f"{long_turns} turns end after --max-length-tokens {config.max_length_tokens} and are left out "
        f"completely; {lost} chats lose all their turns",
        worst=Level.WARN,
    )


def _validate_duplicates(chats: Sequence[ChatFacts], figures: dict[str, Any]) -> Iterator[Finding]:
    finding = finding_factory("data")
    first: dict[bytes, ChatFacts] = {}
    repeated = [
        f"line {f.line} is line {first[f.digest].line} again"
        for f in chats
        if first.setdefault(f.digest, f) is not f
    ]
    index = NearDuplicates()
    near = [(f, number) for f in chats if (number := index.add(f.duplicate)) is not None]
    similar = [
        f"line {f.line} is nearly line {chats[number].line}"
        for f, number in near
        if f.digest != chats[number].digest and first[f.digest] is f
    ]
    figures |= {"duplicates": len(repeated), "near_duplicates": len(similar)}
    yield finding(
        not repeated, f"{len(repeated)} chats are in the file more than once", repeated, worst=Level.WARN
    )
    yield finding(
        len(similar) <= len(chats) * 0.1,
        f"{len(similar)} chats are nearly equal to an earlier one (80 % of their three-word runs are the same)",
        similar,
        worst=Level.WARN,
    )


def validate_format(scan: DatasetScan, figures: dict[str, Any]) -> Iterator[Finding]:
    """Forms, the base's template, whether calls are read back, and control tokens."""
    finding = finding_factory("format")
    chats = scan.chats
    forms = Counter(f.form for f in chats)
    tools, calls = sum(f.has_tools for f in chats), sum(f.call_turns for f in chats)
    figures |= {"forms": dict(forms), "chats_with_tools": tools, "turns_with_calls": calls}
    shown = ", ".join(f"{n} {form}" for form, n in forms.items())
    yield finding(True, f"format: {shown or 'no chats'}; {tools} chats with tools, {calls} turns with calls")
    refused = [f.template_error for f in chats if f.template_error]
    yield finding(not refused, f"{len(refused)} chats do not fit the base's template", refused)
    unread = sum(f.unread_calls for f in chats)
    figures["calls_not_parsed"] = unread
    if calls:
        yield finding(not unread, f"the hermes parser would not read back the calls of {unread} turns")
    bare = sum(f.bare_calls for f in chats)
    figures["bare_calls"] = bare
    yield finding(not bare, f"{bare} answers are the JSON of a call without its <tool_call> tags")
    control = sum(f.control_messages for f in chats)
    figures["control_token_messages"] = control
    yield finding(not control, f"{control} messages have a control token in their text", worst=Level.WARN)


def validate_faults(scan: DatasetScan, figures: dict[str, Any]) -> Iterator[Finding]:
    """The faults of single chats, by rule; one line for each section without any."""
    places: dict[str, list[str]] = {rule: [] for rule in RULES}
    for facts in scan.chats:
        for fault in facts.faults:
            places[fault.rule].append(fault.place)
    figures["faults"] = {rule: len(found) for rule, found in places.items() if found}
    calm = {"calls": "calls match the declared functions, ids and results", "texts": "no faults in the texts"}
    for section in ("format", "calls", "texts"):
        finding = finding_factory(section)
        rules = [rule for rule in RULES if RULES[rule].section == section]
        for rule in rules:
            if found := places[rule]:
                yield finding(False, RULES[rule].text.format(n=len(found)), found, worst=RULES[rule].level)
        if section in calm and not any(places[rule] for rule in rules):
            yield finding(True, calm[section])


def validate_masking(scan: DatasetScan, figures: dict[str, Any]) -> Iterator[Finding]:
    """Trained tokens, and one trained span for each assistant turn."""
    finding = finding_factory("masking")
    tokens = sum(sum(f.sample_tokens) for f in scan.chats)
    trained = sum(f.trained_tokens for f in scan.chats)
    share = trained / tokens if tokens else 0.0
    figures |= {"tokens": tokens, "trained_tokens": trained, "trained_share": round(share, 4)}
    yield finding(
        trained > 0, f"{trained} of {tokens} tokens are trained ({share:.0%}): only those of assistant turns"
    )
    spans = sum(f.spans for f in scan.chats)
    expected = sum(f.trained_turns - f.long_turns for f in scan.chats)
    switched_off = sum(f.turns - f.trained_turns for f in scan.chats)
    figures |= {"trained_stretches": spans, "untrained_turns": switched_off}
    more = f"; {switched_off} more are switched off" if switched_off else ""
    yield finding(spans >= expected, f"{spans} trained spans for {expected} assistant turns{more}")


def validate_end_token(
    scan: DatasetScan, config: TrainingConfig, renderer: Renderer, figures: dict[str, Any]
) -> Iterator[Finding]:
    """Whether every trained span ends with the end token, and whether the base stops there."""
    finding = finding_factory("end token")
    spans, missing = sum(f.spans for f in scan.chats), sum(f.missing_ends for f in scan.chats)
    figures["missing_end_tokens"] = missing
    yield finding(not missing, f"{missing} of {spans} trained spans do not end with {config.end_token}")
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


def validate_held_out(
    train: Sequence[ChatFacts], held_out: Sequence[ChatFacts], broken: int, figures: dict[str, Any]
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
    trained_on = {f.questions for f in train}
    leaked = [f for f in held_out if f.questions in trained_on]
    index = NearDuplicates(0.9)
    for facts in train:
        index.add(facts.asked)
    similar = max(sum(index.find(f.asked) is not None for f in held_out) - len(leaked), 0)
    figures |= {"leaked": len(leaked), "nearly_leaked": similar}
    lines = [f"line {f.line}: {f.questions[:80]}" for f in leaked]
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


def _configured_end_ids(base: Path) -> frozenset[int]:
    """The ids at which stock vLLM ends an answer, from ``generation_config.json`` or ``config.json``."""
    for name in ("generation_config.json", "config.json"):
        path = base / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
