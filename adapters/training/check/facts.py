"""What the check keeps of one chat: counts and hashes, not texts and ids, so that a large file fits in memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from adapters.training.check.call_faults import call_faults
from adapters.training.check.faults import Fault
from adapters.training.check.languages import language_of
from adapters.training.check.text_faults import text_faults
from adapters.training.data.chat_template import IGNORED, Conversation, Renderer, Sample, Turn, fold
from adapters.training.data.quality import Fingerprint, calls_survive, count_control_tokens, fingerprint
from adapters.training.data.reader import first_question, normalised, share_of
from adapters.training.data.tool_calls import looks_like_bare_call
from adapters.training.errors import TemplateError

_LONG_ANSWER_WORDS = 20
_CLOSED = tuple(".!?…:;)]}\"'`*|>%。！？”’»")
_FRAME_WORDS, _SENTENCE_CHARACTERS = 4, 80
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+|\n+")


class Answer(NamedTuple):
    """One trained answer: hashes of what it answers and of itself, its beginning and end, and if it looks cut."""

    prompt: bytes
    text: bytes
    shown: str
    opening: str
    closing: str
    is_cut: bool


@dataclass(slots=True)
class ChatFacts:
    """The counts of one chat."""

    file: int
    line: int
    form: str
    has_tools: bool
    digest: bytes
    duplicate: Fingerprint
    questions: str  # all user messages, in lower case
    asked: Fingerprint
    share: float  # of the hash of the first question
    opening: str  # the first words of the first question
    language: str | None
    faults: list[Fault]
    control_messages: int
    template_error: str = ""
    turns: int = 0
    trained_turns: int = 0
    call_turns: int = 0
    unread_calls: int = 0
    bare_calls: int = 0
    long_turns: int = 0
    sample_tokens: list[int] = field(default_factory=list)
    trained_tokens: int = 0
    spans: int = 0
    missing_ends: int = 0
    answers: list[Answer] = field(default_factory=list)


def facts_of(chat: Conversation, file: int, renderer: Renderer, max_length_tokens: int) -> ChatFacts:
    """Look at one chat as a training would.

    Raises:
        TemplateError: the end token is not a single token of the base, which no chat can help.
    """
    questions = normalised(" ".join(str(m["content"]) for m in chat.messages if m["role"] == "user"))
    first = first_question(chat)
    text = _text_of(chat).lower()
    facts = ChatFacts(
        file=file,
        line=chat.line,
        form=chat.form,
        has_tools=bool(chat.tools),
        digest=_digest(text),
        duplicate=fingerprint(text),
        questions=questions,
        asked=fingerprint(questions),
        share=share_of(first),
        opening=" ".join(first.split()[:_FRAME_WORDS]),
        language=language_of(" ".join(m["content"] for m in chat.messages if m["role"] == "assistant")[:600]),
        faults=[*call_faults(chat), *text_faults(chat)],
        control_messages=count_control_tokens([chat], renderer.tokenizer.all_special_tokens),
    )
    facts.faults += [Fault("changed", f"Line {chat.line}: {note}") for note in chat.notes]
    try:
        turns = list(renderer.turns(chat))
    except TemplateError as error:
        _ = renderer.end_id
        facts.template_error = str(error)
        return facts
    _add_turns(facts, chat, turns, renderer, max_length_tokens)
    return facts


def _add_turns(
    facts: ChatFacts, chat: Conversation, turns: list[Turn], renderer: Renderer, max_length_tokens: int
) -> None:
    names = {t["function"]["name"] for t in chat.tools}
    samples, facts.long_turns = fold(turns, max_length_tokens)
    facts.turns = len(turns)
    tools = json.dumps(chat.tools) if chat.tools else ""
    for turn in turns:
        content, calls = turn.answer["content"], turn.answer.get("tool_calls")
        facts.trained_turns += bool(turn.answer.get("weight", 1))
        facts.call_turns += bool(calls)
        facts.unread_calls += bool(calls) and not calls_survive(turn, renderer)
        facts.bare_calls += (
            bool(names) and content.lstrip()[:1] in "{[" and looks_like_bare_call(content, names)
        )
        if turn.answer.get("weight", 1):
            facts.answers.append(_answer(turn, tools))
    for sample in samples:
        spans = trained_spans(sample)
        facts.sample_tokens.append(len(sample.ids))
        facts.trained_tokens += sample.trained_tokens
        facts.spans += len(spans)
        facts.missing_ends += sum(span[-1] != renderer.end_id for span in spans)


def trained_spans(sample: Sample) -> list[tuple[int, ...]]:
    """The runs of trained tokens in a sample."""
    runs = itertools.groupby(sample.labels, key=IGNORED.__ne__)
    return [tuple(labels) for trained, labels in runs if trained]


def _answer(turn: Turn, tools: str) -> Answer:
    before = [(m["role"], normalised(m["content"]), m.get("tool_calls")) for m in turn.before]
    prompt = f"{before!r}{tools}"
    content, calls = turn.answer["content"], turn.answer.get("tool_calls")
    said = normalised(content) + (json.dumps([c["function"] for c in calls], sort_keys=True) if calls else "")
    sentences = [] if calls else [s.strip() for s in _SENTENCE_END.split(content.strip()) if s.strip()]
    several = len(sentences) > 1
    return Answer(
        _digest(prompt),
        _digest(said),
        content[:60] if not calls else f"a call of {calls[0]['function']['name'][:40]}",
        sentences[0][:_SENTENCE_CHARACTERS] if several else "",
        sentences[-1][:_SENTENCE_CHARACTERS] if several else "",
        _looks_cut(turn.answer),
    )


def _text_of(chat: Conversation) -> str:
    return "\n".join(
        f"{m['role']}: {m['content']}{json.dumps(m['tool_calls']) if m.get('tool_calls') else ''}"
        for m in chat.messages
    )


def _looks_cut(answer: Any) -> bool:
    text = answer["content"].rstrip()
    if answer.get("tool_calls") or len(text.split()) < _LONG_ANSWER_WORDS:
        return False
    return text.count("```") % 2 == 1 or not text.endswith(_CLOSED)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
