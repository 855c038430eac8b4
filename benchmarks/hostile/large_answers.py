"""Hostile inputs whose answers are expensive to build: many choices, many log-probabilities, many tags."""

from __future__ import annotations

import json
from typing import Final

from benchmarks.hostile.hostile_input import MODEL, HostileInput, chat, completion, tool

LARGE_ANSWERS: Final = (
    HostileInput(
        "choices_128",
        lambda: chat(n=128, temperature=1, ignore_eos=True, stream=True, logprobs=True, top_logprobs=20),
        copies=1,
    ),
    HostileInput(
        "echo_logprobs",
        lambda: completion(prompt=[65] * 3000, echo=True, logprobs=20, stream=True),
        "/v1/completions",
    ),
    HostileInput(
        "prompt_logprobs",
        lambda: completion(prompt=[65] * 3000, prompt_logprobs=20),
        "/v1/completions",
    ),
    HostileInput(
        "prompts_logprobs",
        lambda: completion(prompt=["a"] * 1024, logprobs=20),
        "/v1/completions",
        copies=1,
    ),
    HostileInput(
        "responses_logprobs",
        lambda: json.dumps(
            {
                "model": MODEL,
                "input": "a",
                "max_output_tokens": 600,
                "ignore_eos": True,
                "stream": True,
                "top_logprobs": 20,
                "include": ["message.output_text.logprobs"],
            }
        ).encode(),
        "/v1/responses",
        copies=1,
    ),
    HostileInput(
        "batch_1024",
        lambda: chat(messages=[[{"role": "user", "content": "a"}]] * 1024, max_tokens=2),
        "/v1/chat/completions/batch",
        copies=1,
    ),
    HostileInput(
        "answer_of_tags",
        lambda: chat(tools=[tool(0)], max_tokens=300, structured_outputs={"regex": "(<tool_call>){250,}"}),
    ),
)
