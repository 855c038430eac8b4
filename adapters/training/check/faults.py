"""The kinds of faults that the check looks for in single chats, and the sentence of each."""

from __future__ import annotations

from typing import Final, NamedTuple

from adapters.training.check.findings import Level


class Fault(NamedTuple):
    """One fault: the key of its rule, and its place with what is wrong there."""

    rule: str
    place: str


class Rule(NamedTuple):
    """How a kind of fault is reported; ``{n}`` in the text is the number of places."""

    section: str
    level: Level
    text: str


_FAIL, _WARN = Level.FAIL, Level.WARN

#: In the order of the report.
RULES: Final[dict[str, Rule]] = {
    "undeclared_function": Rule("calls", _FAIL, "{n} calls of a function that the chat does not declare"),
    "calls_without_tools": Rule(
        "calls",
        _WARN,
        "{n} chats call functions and declare none: the model learns to call what it cannot see",
    ),
    "unknown_argument": Rule("calls", _FAIL, "{n} arguments that the function does not have"),
    "null_padding": Rule(
        "calls",
        _FAIL,
        "{n} arguments are null where the function allows no null; tables pad missing values so. Remove them: "
        "jq -c 'del(..|nulls)' FILE",
    ),
    "invalid_arguments": Rule("calls", _FAIL, "{n} calls whose arguments do not match the function's schema"),
    "duplicate_tool": Rule("calls", _FAIL, "{n} functions are declared twice in one chat"),
    "invalid_tool": Rule("calls", _FAIL, "{n} declarations of functions are not valid"),
    "unknown_call_id": Rule("calls", _FAIL, "{n} results name a call that the turn before does not have"),
    "duplicate_call_id": Rule("calls", _WARN, "{n} ids are used by two calls of one chat"),
    "unanswered_call": Rule("calls", _FAIL, "{n} turns call functions and get another number of results"),
    "broken_json": Rule("texts", _WARN, "{n} answers look like JSON and are none"),
    "ends_with_user": Rule(
        "texts", _WARN, "{n} chats end with a message of the user or a tool, which nothing answers"
    ),
    "empty_message": Rule("texts", _WARN, "{n} messages of the user or of a tool are empty"),
    "loop": Rule("texts", _FAIL, "{n} answers repeat one passage again and again"),
    "mojibake": Rule("texts", _WARN, "{n} messages have wrongly decoded characters"),
    "secret": Rule("texts", _FAIL, "{n} messages have a secret: a key, a token or a password"),
    "personal_data": Rule(
        "texts", _WARN, "{n} messages have personal data, which an adapter can repeat to anybody"
    ),
    "assistant_talk": Rule(
        "texts", _WARN, "{n} answers have another model's standard phrases, such as “as an AI language model”"
    ),
    "other_language": Rule("texts", _WARN, "{n} answers are in another language than their question"),
    "changed": Rule("format", _WARN, "{n} chats are read with a change"),
}
