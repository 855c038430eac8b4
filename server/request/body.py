"""Reads the body of a generating request: strict JSON, its size, and what is left of it when the prompt is large.

A *small* body is parsed, validated and rendered on the event loop, within 20 ms. A large one is given to a worker
process (`server.engine.rendering`): the event loop sees it only without its prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from sampling.endpoints import Endpoint
from sampling.json_limits import PROMPT_FIELDS, check_body
from sampling.limits import Limits
from server.errors import InvalidRequest

#: Bytes of a small body. Its text takes a tokenizer 20 ms, in a thread and without Python's lock.
SMALL_BYTES: Final = 64 << 10
#: Separators (`,`, `[` and `{` outside of texts) of a small body: vLLM's wire models take at most 15 ms for them.
SMALL_SEPARATORS: Final[Mapping[Endpoint, int]] = {
    Endpoint.CHAT: 512,
    Endpoint.COMPLETIONS: 4096,
    Endpoint.RESPONSES: 128,
    Endpoint.MESSAGES: 512,
}
#: Prompts of a small list of them; each takes 0.1 ms.
_SMALL_PROMPTS: Final = 64
#: Quotes of a small body, so that taking out its texts is quick.
_SMALL_QUOTES: Final = 4096
#: A JSON text, also one without an end, so that no byte is looked at twice.
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
#: The only numbers that may be infinite.
_LONG_EXPONENT: Final = re.compile(rb"[eE]\+?[0-9]{3}")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(slots=True, eq=False)
class Body:
    """A parsed body; of a large one the fields without the prompt."""

    fields: dict[str, Any]
    raw: bytes | None = None
    """A large body as it was sent, until its prompt is rendered."""
    rendered: Any = None
    """The prompt of a large body (`server.engine.rendering.prompt.RenderedPrompt`)."""
    size_bytes: int | None = None
    """Of a small body, as it was sent."""


def is_small(raw: bytes, endpoint: Endpoint) -> bool:
    """Whether the event loop may read the body; takes less than 1 ms."""
    if len(raw) > SMALL_BYTES:
        return False
    if _separators(raw) <= _SMALL_PROMPTS:
        return True
    if raw.count(b'"') - raw.count(b'\\"') > _SMALL_QUOTES:
        return False
    bare, texts = _TEXT.subn(b"", raw)
    if endpoint is Endpoint.COMPLETIONS and max(bare.count(b"["), texts // 2) > _SMALL_PROMPTS:
        return False
    return _separators(bare) <= SMALL_SEPARATORS[endpoint]


def has_few_values(raw: bytes, most: int) -> bool:
    """Whether JSON has at most `most` separators outside of its texts; takes less than 5 ms for 512 KiB."""
    if _separators(raw) <= most:
        return True
    if raw.count(b'"') - raw.count(b'\\"') > 4 * most:
        return False
    return _separators(_TEXT.sub(b"", raw)) <= most


def read(raw: bytes, limits: Limits) -> dict[str, Any]:
    """Parse a body and check it against the limits.

    Raises:
        InvalidRequest: it is not a JSON object (RFC 8259, in UTF-8, with finite numbers).
        BodyLimitExceeded: it is above a limit.
    """
    body = parse(raw)
    check_body(body, limits)
    return body


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in these bytes. Raises: InvalidRequest."""
    try:
        text = raw.decode("utf-8")
        body = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite if _LONG_EXPONENT.search(raw) else None,
        )
        if _SURROGATE.search(raw):
            json.dumps(body, ensure_ascii=False).encode()
    except InvalidRequest:
        raise
    except UnicodeEncodeError as error:
        raise _not_json("it has half of a surrogate pair, which is no character") from error
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise _not_json("arrays and objects are nested too deeply") from error
    except ValueError as error:
        raise _not_json(str(error)) from error
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"The body must be a JSON object, not {type(body).__name__}.", code="invalid_json"
        )
    return body


def without_prompt(body: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """A body with which vLLM's handlers do the same after the prompt is rendered, and that is small."""
    lean = {name: value for name, value in body.items() if name not in PROMPT_FIELDS}
    if endpoint is Endpoint.COMPLETIONS:
        lean["prompt"] = "x"  # vLLM refuses an empty one
    elif endpoint is Endpoint.RESPONSES:
        lean["input"] = ""
    elif endpoint is Endpoint.CHAT:
        lean["messages"] = [_last_role(body.get("messages"))]
    else:
        lean["messages"] = [{"role": "user", "content": "x"}, *_tool_changes(body.get("messages"))]
    return lean


def with_prompt(lean: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The lean body, with the prompt of the body that it was made of."""
    kept = {name: value for name, value in lean.items() if name not in PROMPT_FIELDS}
    return kept | {name: body[name] for name in PROMPT_FIELDS if name in body}


def _separators(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _last_role(messages: Any) -> dict[str, Any]:
    """A message with the role of the last one, which an answer with `echo` has, too."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    role = last.get("role") if isinstance(last, dict) else None
    if role == "tool":
        return {"role": "tool", "tool_call_id": "", "content": ""}
    return {"role": role if isinstance(role, str) else "user", "content": ""}


def _tool_changes(messages: Any) -> list[dict[str, Any]]:
    """Of Anthropic messages what changes the tools: blocks `tool_addition` and `tool_removal`."""
    changes = []
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and block.get("type") in ("tool_addition", "tool_removal"):
                changes.append({"role": message.get("role"), "content": [block]})
    return changes


def _refuse_constant(name: str) -> NoReturn:
    raise _not_json(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _not_json(f"the number {digits[:40]} is too large")
    return number


def _not_json(why: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not valid JSON: {why}.", code="invalid_json")
