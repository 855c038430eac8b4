"""The hostile inputs: requests that cost a server much more than they cost their sender.

Each is valid HTTP of a tenant with a valid key, below the server's cap of the body where there is one.
"""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.hostile import archives, grammars
from benchmarks.hostile.hostile_input import MODEL, HostileInput, chat, tool
from benchmarks.hostile.large_answers import LARGE_ANSWERS

_MIB: Final = 1024**2
#: A little below the default of --max-body-bytes, 16 MiB.
_BODY: Final = 16 * _MIB - 4096


def _schema(schema: Any) -> bytes:
    json_schema = {"name": "hostile", "schema": schema, "strict": True}
    return chat(response_format={"type": "json_schema", "json_schema": json_schema})


def _structured(**constraint: Any) -> bytes:
    return chat(structured_outputs=constraint)


def _tokenize(size_bytes: int) -> bytes:
    return json.dumps({"model": MODEL, "prompt": "hello world " * (size_bytes // 12)}).encode()


def _filled(start: bytes, unit: bytes, end: bytes, size_bytes: int = _BODY) -> bytes:
    """A body of `size_bytes` at most, made of as many units as fit."""
    return start + unit * ((size_bytes - len(start) - len(end)) // len(unit)) + end


_HEAD = f'{{"model":"{MODEL}","messages":['.encode()

INPUTS: Final = (
    HostileInput("tokenize_14mb", lambda: _tokenize(14 * _MIB), "/tokenize"),
    HostileInput("tokenize_2mb", lambda: _tokenize(2 * _MIB), "/tokenize"),
    HostileInput("tokenize_many", lambda: _tokenize(300_000), "/tokenize", copies=16),
    HostileInput(
        "tokenize_one_word",
        lambda: json.dumps({"model": MODEL, "prompt": "a" * 4 * _MIB}).encode(),
        "/tokenize",
    ),
    HostileInput(
        "detokenize_ids",
        lambda: json.dumps({"model": MODEL, "tokens": [7] * 2_000_000}).encode(),
        "/detokenize",
    ),
    HostileInput("messages_200k", lambda: chat(messages=[{"role": "user", "content": "a"}] * 200_000)),
    HostileInput(
        "message_parts_200k",
        lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 200_000}]),
    ),
    HostileInput(
        "message_14mb", lambda: chat(messages=[{"role": "user", "content": "so it is " * 1_600_000}])
    ),
    HostileInput(
        "conversations", lambda: chat(messages=[{"role": "user", "content": "a b"}] * 900), copies=16
    ),
    HostileInput("tools_50k", lambda: chat(tools=[tool(number) for number in range(50_000)])),
    HostileInput(
        "tool_calls_50k",
        lambda: chat(
            messages=[
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": str(n), "type": "function", "function": {"name": "f", "arguments": "{}"}}
                        for n in range(50_000)
                    ],
                },
            ]
        ),
    ),
    HostileInput(
        "prompt_text_14mb",
        lambda: json.dumps({"model": MODEL, "prompt": "ab " * 4_700_000}).encode(),
        "/v1/completions",
    ),
    HostileInput(
        "prompt_ids_2m",
        lambda: json.dumps({"model": MODEL, "prompt": [7] * 2_000_000}).encode(),
        "/v1/completions",
    ),
    HostileInput(
        "prompts_50k",
        lambda: json.dumps({"model": MODEL, "prompt": ["a"] * 50_000, "max_tokens": 1}).encode(),
        "/v1/completions",
    ),
    HostileInput(
        "responses_input_100k",
        lambda: json.dumps({"model": MODEL, "input": [{"role": "user", "content": "a"}] * 100_000}).encode(),
        "/v1/responses",
    ),
    HostileInput(
        "anthropic_blocks_100k",
        lambda: json.dumps(
            {
                "model": MODEL,
                "max_tokens": 8,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}],
            }
        ).encode(),
        "/v1/messages",
    ),
    HostileInput("json_brackets", lambda: _filled(_HEAD, b"[", b"")),
    HostileInput("json_nested", lambda: _HEAD + b"[" * 100_000 + b"]" * 100_000 + b"]}"),
    HostileInput("json_numbers", lambda: _filled(_HEAD, b"1,", b"1]}")),
    HostileInput("json_objects", lambda: _filled(_HEAD, b"{},", b"{}]}")),
    HostileInput("json_escapes", lambda: _filled(_HEAD + b'{"role":"user","content":"', rb"\u00e4", b'"}]}')),
    HostileInput("json_digits", lambda: _filled(b'{"model":"x","seed":', b"9", b"}")),
    HostileInput("stops_200k", lambda: chat(stop=[str(number) for number in range(200_000)])),
    HostileInput("logit_bias_200k", lambda: chat(logit_bias={str(n): 1 for n in range(200_000)})),
    HostileInput("bad_words_100k", lambda: chat(bad_words=[f"word{n}" for n in range(100_000)])),
    HostileInput(
        "logprobs",
        lambda: chat(max_tokens=900, ignore_eos=True, logprobs=True, top_logprobs=20),
        copies=1,
    ),
    *LARGE_ANSWERS,
    HostileInput("schema_properties_3mb", lambda: _schema(grammars.wide_object(40_000))),
    HostileInput("schema_properties_300kb", lambda: _schema(grammars.wide_object(4_000))),
    HostileInput("schema_enum_300kb", lambda: _schema({"enum": [f"value {n}" for n in range(20_000)]})),
    HostileInput("schema_nested", lambda: _schema(grammars.nested_object(400))),
    HostileInput("schema_of_itself", lambda: _schema({"$ref": "#"})),
    HostileInput(
        "schema_circle", lambda: _schema({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})
    ),
    HostileInput("schema_choices", lambda: _schema(grammars.nested_choices(9, 4))),
    HostileInput("schema_lengths", lambda: _schema(grammars.long_strings(40))),
    HostileInput("regex_repeats", lambda: _structured(regex="((a|b|ab){1,400}c){1,400}")),
    HostileInput(
        "regex_alternatives", lambda: _structured(regex="|".join(f"w{n}x*y" for n in range(20_000)))
    ),
    HostileInput("grammar_rules", lambda: _structured(grammar=grammars.chained_rules(8_000))),
    HostileInput("grammar_of_itself", lambda: _structured(grammar="root ::= root")),
    HostileInput("choice_100k", lambda: _structured(choice=[f"choice {n}" for n in range(100_000)])),
    HostileInput("structural_tags", lambda: _structured(structural_tag=grammars.tags(2_000))),
    HostileInput(
        "tools_required",
        lambda: chat(
            tools=[tool(number, grammars.wide_object(100)) for number in range(100)], tool_choice="required"
        ),
    ),
    HostileInput(
        "archive_of_zeros",
        archives.of_zeros,
        "/admin/v1/adapters/{tenant}/bomb/versions",
        content_type="application/gzip",
    ),
    HostileInput(
        "header_of_values",
        lambda: archives.of_header(archives.many_values()),
        "/admin/v1/adapters/{tenant}/values/versions",
        content_type="application/gzip",
    ),
    HostileInput(
        "header_of_tensors",
        lambda: archives.of_header(archives.many_tensors()),
        "/admin/v1/adapters/{tenant}/tensors/versions",
        content_type="application/gzip",
    ),
    HostileInput(
        "feedback_values",
        lambda: json.dumps({"request_id": "x", "rating": "up", "messages": [1] * 150_000}).encode(),
        "/v1/feedback",
    ),
    HostileInput(
        "query_parameters",
        lambda: json.dumps({"request_id": "x", "rating": "up"}).encode(),
        "/v1/feedback?" + "&".join(f"a{number}=1" for number in range(7_000)),
    ),
    HostileInput("slow_bodies", lambda: chat(max_tokens=1), copies=64, pause_s=0.2),
    HostileInput(
        "slow_readers",
        lambda: chat(max_tokens=900, ignore_eos=True, stream=True, logprobs=True, top_logprobs=5),
        copies=2,
        is_read=False,
    ),
)

BY_NAME: Final = {hostile.name: hostile for hostile in INPUTS}
