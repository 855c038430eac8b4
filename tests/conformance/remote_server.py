"""Stands in for vLLM's `tests/utils.py`: its `RemoteOpenAIServer`, which is the running loragate here.

The arguments that a test gives its server are not read: what they ask for is already so in the demo, or the test
is listed as different.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

ROCM_EXTRA_ARGS: list[str] = []
VLLM_PATH = Path(__file__).parent


def multi_gpu_only(*, num_gpus: int = 2) -> Any:
    return pytest.mark.skip(reason=f"needs {num_gpus} GPUs")


def requires_fp8(test: Any) -> Any:
    return pytest.mark.skip(reason="needs FP8")(test)


class RemoteOpenAIServer:
    """The running server, under the interface of vLLM's class of this name."""

    show_hidden_metrics = False

    def __init__(self, model: str, vllm_serve_args: list[str], **options: Any) -> None:
        self.url_root = os.environ["CONFORMANCE_URL"]
        self.host, self.port = urlsplit(self.url_root).hostname, urlsplit(self.url_root).port
        # The responses' conftest, whose tests name no model, starts Qwen3-1.7B: its key has only one to name.
        keys = {
            "globex-tools": "demo-globex",
            "Qwen/Qwen3-1.7B": os.environ.get("CONFORMANCE_KEY", "demo-globex"),
        }
        self.key = keys.get(model, "demo-acme")
        if "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in (options.get("env_dict") or {}):
            self.key = "demo-admin"  # Only an operator may load adapters from a folder of the server.

    def __enter__(self) -> RemoteOpenAIServer:
        return self

    def __exit__(self, *_: object) -> None:
        """The server outlives the test."""

    def url_for(self, *parts: str) -> str:
        return f"{self.url_root}/" + "/".join(part.strip("/") for part in parts)

    def get_client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**self._openai(options))

    def get_async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._openai(options))

    def get_async_client_anthropic(self, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url_root, api_key=self.key, max_retries=0, **options)

    def _openai(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "base_url": self.url_for("v1"),
            "api_key": self.key,
            "max_retries": 0,
            "timeout": 60,
        } | options
