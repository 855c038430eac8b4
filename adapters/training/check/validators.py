"""The five sections: data, format, masking, end token, evaluation. Each adds its figures to ``figures``."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapters.training.check.findings import Finding, Level, teller
from adapters.training.check.similarity import NearTexts
from adapters.training.check.walk import Found, asked, spans, text_of
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation, Renderer, Turn
from adapters.training.data.reader import count_control_tokens
from adapters.training.data.tool_calls import looks_like_bare_call, parse_calls

FEW_CHATS, GOOD_CHATS, FEW_HELD_OUT = 100, 1000, 20
_LONG_ANSWER_WORDS = 20
_CLOSED = tuple(".!?…:;)]}\"'`*|>%。！？”’»")


def data_section(found: Found, config: TrainingConfig, figures: dict[str, Any]) -> Iterator[Finding]:
    tell = teller("data")
    chats = len(found.chats)
    lengths = [len(s.ids) for s in found.samples]
    figures |= {
        "chats": chats,
        "broken_lines": len(found.broken),
        "assistant_turns": len(found.turns),
        "samples": len(found.samples),
        "sample_tokens": _spread(lengths),
    }
    yield tell(not found.broken, f"{chats} chats read, {len(found.broken)} lines unusable", found.broken)
    yield tell(chats >= FEW_CHATS, size_advice(chats), worst=Level.WARN)
    if lengths:
        yield tell(True, f"{len(lengths)} samples of {_told(lengths)} tokens")
    repeated = chats - len({text_of(c).lower() for c in found.chats})
    near = NearTexts()
    alike = sum(near.add(text_of(c)) is not None for c in found.chats) - repeated
    figures |= {"duplicates": repeated, "near_duplicates": max(alike, 0)}
    yield tell(not repeated, f"{repeated} chats stand in the file more than once", worst=Level.WARN)
    yield tell(
        alike <= chats * 0.1,
        f"{max(alike, 0)} chats nearly repeat an earlier one (4 in 5 runs of three words are the same)",
        worst=Level.WARN,
    )
    cut = sum(_looks_cut(t.answer) for _, t in found.turns)
    figures |= {
        "cut_answers": cut,
        "turns_too_long": found.long_turns,
        "chats_lost_to_length": found.lost_chats,
    }
    yield tell(not cut, f"{cut} long answers end in the middle of a sentence", worst=Level.WARN)
    yield tell(
        not found.long_turns,
        f"{found.long_turns} turns end beyond --max-length-tokens {config.max_length_tokens} and are left "
        f"out whole; {found.lost_chats} chats lose all their turns",
        worst=Level.WARN,
    )


def format_section(found: Found, renderer: Renderer, figures: dict[str, Any]) -> Iterator[Finding]:
    tell = teller("format")
    forms = Counter(c.form for c in found.chats)
    tools = sum(bool(c.tools) for c in found.chats)
    calls = [t for _, t in found.turns if t.answer.get("tool_calls")]
    figures |= {"forms": dict(forms), "chats_with_tools": tools, "turns_with_calls": len(calls)}
    shown = ", ".join(f"{n} {form}" for form, n in forms.items())
    yield tell(
        True, f"written as {shown or 'nothing'}; {tools} chats with tools, {len(calls)} turns that call"
    )
    yield tell(not found.untold, f"{len(found.untold)} chats do not fit the base's template", found.untold)
    unread = sum(not calls_survive(t, renderer) for t in calls)
    figures["calls_not_parsed"] = unread
    if calls:
        yield tell(not unread, f"{unread} turns with calls would not be read back by the hermes parser")
    bare = sum(
        looks_like_bare_call(t.answer["content"], {f["function"]["name"] for f in c.tools})
        for c, t in found.turns
        if c.tools and t.answer["content"].lstrip()[:1] in "{["
    )
    figures["bare_calls"] = bare
    yield tell(not bare, f"{bare} answers are a call's JSON without its <tool_call> tags")
    control = count_control_tokens(found.chats, renderer.tokenizer.all_special_tokens)
    figures["control_token_messages"] = control
    yield tell(not control, f"{control} messages hold a control token in their text", worst=Level.WARN)


def masking_section(found: Found, figures: dict[str, Any]) -> Iterator[Finding]:
    tell = teller("masking")
    tokens = sum(len(s.ids) for s in found.samples)
    trained = sum(s.trained_tokens for s in found.samples)
    share = trained / tokens if tokens else 0.0
    figures |= {"tokens": tokens, "trained_tokens": trained, "trained_share": round(share, 4)}
    yield tell(trained > 0, f"{trained} of {tokens} tokens are trained ({share:.0%}): assistant turns alone")
    stretches = sum(len(spans(s)) for s in found.samples)
    kept = sum(bool(t.answer.get("weight", 1)) for _, t in found.turns) - found.long_turns
    figures["trained_stretches"] = stretches
    yield tell(stretches >= kept, f"{stretches} trained stretches for {kept} assistant turns")


def end_token_section(
    found: Found, config: TrainingConfig, renderer: Renderer, figures: dict[str, Any]
) -> Iterator[Finding]:
    tell = teller("end token")
    stretches = [span for s in found.samples for span in spans(s)]
    missing = sum(span[-1] != renderer.end_id for span in stretches)
    figures["missing_end_tokens"] = missing
    yield tell(
        not missing, f"{missing} of {len(stretches)} trained stretches lack {config.end_token} at their end"
    )
    named = renderer.end_id in _named_end_ids(config.base)
    yield tell(
        named,
        f"the base's own configuration stops at {config.end_token}"
        if named
        else f"the base's own configuration does not stop at {config.end_token}: loragate adds it from the "
        "template, stock vLLM would run on",
        worst=Level.WARN,
    )
    if renderer.tokenizer.pad_token_id == renderer.end_id:
        yield tell(
            True, "padding and end token are the same; labels go by position, so the end stays trained"
        )


def evaluation_section(
    train: Sequence[Conversation], held_out: Sequence[Conversation], broken: int, figures: dict[str, Any]
) -> Iterator[Finding]:
    tell = teller("evaluation")
    figures |= {"held_out_chats": len(held_out), "held_out_broken_lines": broken}
    yield tell(
        len(held_out) >= FEW_HELD_OUT,
        f"{len(held_out)} chats held out"
        + ("" if len(held_out) >= FEW_HELD_OUT else f"; a score over fewer than {FEW_HELD_OUT} says little"),
        worst=Level.WARN,
    )
    yield tell(not broken, f"{broken} held-out lines unusable")
    trained_on = {asked(c) for c in train}
    leaked = [c for c in held_out if asked(c) in trained_on]
    near = NearTexts(0.9)
    for chat in train:
        near.add(asked(chat))
    alike = sum(near.find(asked(c)) is not None for c in held_out) - len(leaked)
    figures |= {"leaked": len(leaked), "nearly_leaked": max(alike, 0)}
    yield tell(
        not leaked, f"{len(leaked)} held-out chats ask what a training chat asks", _first_lines(leaked)
    )
    yield tell(
        alike <= 0, f"{max(alike, 0)} held-out chats ask nearly what a training chat asks", worst=Level.WARN
    )


def size_advice(chats: int) -> str:
    """What so many chats are good for."""
    few = f"{chats} chats are few: under {FEW_CHATS} an adapter mostly learns them by heart. "
    good = (
        f"About {GOOD_CHATS:,} good ones (right, varied, each as you would want it answered) are usually enough "
        "for a voice, a format or a set of functions; they do not put much new knowledge into a model."
    )
    if chats < FEW_CHATS:
        return few + good
    return (
        f"{chats} chats. {good}"
        if chats < GOOD_CHATS
        else f"{chats} chats are enough for a voice or a format"
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


def _told(lengths: Sequence[int]) -> str:
    spread = _spread(lengths)
    return f"{spread['least']} to {spread['most']} (median {spread['median']}, 95 % below {spread['p95']})"


def _first_lines(chats: Sequence[Conversation]) -> list[str]:
    return [f"line {c.line}: {asked(c)[:80]}" for c in chats]


def _looks_cut(answer: Any) -> bool:
    text = answer["content"].rstrip()
    if answer.get("tool_calls") or len(text.split()) < _LONG_ANSWER_WORDS:
        return False
    return text.count("```") % 2 == 1 or not text.endswith(_CLOSED)


def calls_survive(turn: Turn, renderer: Renderer) -> bool:
    """Whether the server's hermes parser reads a turn's calls back as they were meant."""
    wanted = [c["function"] for c in turn.answer["tool_calls"]]
    read = parse_calls(renderer.tokenizer.decode(turn.target))
    return read == [{"name": c["name"], "arguments": c["arguments"]} for c in wanted]


def _named_end_ids(base: Path) -> frozenset[int]:
    """The ids at which stock vLLM ends an answer: those that ``generation_config.json`` or ``config.json`` name."""
    for name in ("generation_config.json", "config.json"):
        path = base / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
