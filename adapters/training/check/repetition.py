"""Repetition over a whole data set: one question template, identical answers, contradictions, standard sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from adapters.training.check.facts import Answer, ChatFacts
from adapters.training.check.findings import Finding, Level, finding_factory

_LEAST_CHATS = 20  # below, a share says nothing
_ONE_TEMPLATE = 0.5  # share of the chats whose questions begin alike
_STANDARD = 0.3  # share of the answers that begin or end with one sentence
_SAME_ANSWER = 0.1  # share of the answers that are equal
_LANGUAGE_SHARE = 0.02  # a language with fewer chats is told as a minority


def validate_repetition(chats: Sequence[ChatFacts], figures: dict[str, Any]) -> Iterator[Finding]:
    """What is said again and again, and what contradicts itself."""
    finding = finding_factory("variety")
    answers = [(chat, answer) for chat in chats for answer in chat.answers]
    figures["contradictions"] = len(contradictions := _contradictions(answers))
    shares = {
        "one_question_template": _most_common([chat.opening for chat in chats]),
        "identical_answers": _most_common([a.text for _, a in answers]),
        "same_opening": _most_common([a.opening for _, a in answers]),
        "same_closing": _most_common([a.closing for _, a in answers]),
    }
    figures |= {name: round(share, 4) for name, (_, share) in shares.items()}
    opening, share = shares["one_question_template"]
    yield finding(
        share <= _ONE_TEMPLATE or len(chats) < _LEAST_CHATS,
        f"{share:.0%} of the questions begin with “{opening}”"
        + ("" if share <= _ONE_TEMPLATE else ": the adapter learns this wording; vary it, or try --augment"),
        worst=Level.WARN,
    )
    text, share = shares["identical_answers"]
    shown = next((a.shown for _, a in answers if a.text == text), "")
    yield finding(
        share <= _SAME_ANSWER or len(answers) < _LEAST_CHATS,
        f"{share:.0%} of the answers are the same: “{shown}”",
        worst=Level.WARN,
    )
    for name, verb in (("same_opening", "begin"), ("same_closing", "end")):
        sentence, share = shares[name]
        if share > _STANDARD and len(answers) >= _LEAST_CHATS:
            yield finding(
                False, f"{share:.0%} of the answers {verb} with the sentence “{sentence}”", worst=Level.WARN
            )
    yield finding(
        not contradictions,
        f"{len(contradictions)} prompts have different answers in different chats",
        contradictions,
        worst=Level.WARN,
    )
    yield from _languages(chats, figures)


def _most_common(values: Sequence[Any]) -> tuple[Any, float]:
    """The most common value that is not empty, and its share of all."""
    counted = Counter(value for value in values if value)
    if not counted:
        return "", 0.0
    value, count = counted.most_common(1)[0]
    return (value, count / len(values)) if count > 1 else (value, 0.0)


def _contradictions(answers: Sequence[tuple[ChatFacts, Answer]]) -> list[str]:
    by_prompt: defaultdict[bytes, dict[bytes, tuple[int, str]]] = defaultdict(dict)
    for chat, answer in answers:
        by_prompt[answer.prompt].setdefault(answer.text, (chat.line, answer.shown))
    return [
        "; ".join(f"line {line}: “{shown}”" for line, shown in list(found.values())[:3])
        for found in by_prompt.values()
        if len(found) > 1
    ]


def _languages(chats: Sequence[ChatFacts], figures: dict[str, Any]) -> Iterator[Finding]:
    counted = Counter(chat.language for chat in chats if chat.language)
    known = sum(counted.values())
    figures["languages"] = dict(counted.most_common())
    if known < _LEAST_CHATS:
        return
    main = counted.most_common(1)[0][0]
    rare = [name for name, count in counted.items() if name != main and count < _LANGUAGE_SHARE * known]
    lines = [f"line {chat.line}: {chat.language}" for chat in chats if chat.language in rare]
    shown = ", ".join(f"{count / known:.0%} {name}" for name, count in counted.most_common(5))
    yield finding_factory("variety")(not rare, f"languages of the answers: {shown}", lines, worst=Level.WARN)
