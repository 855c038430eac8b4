"""What the base model can do of the thinking that a request asks for; the rest is taken out and told to the caller.

A model thinks when its chat template reacts to it or a reasoning parser is configured. A limit on the thinking's
tokens needs a reasoning configuration of the engine; vLLM refuses the request without one.
Leans on (vLLM 0.32): AnthropicServingMessages._get_disabled_thinking_effort and _render_probe_prompt,
AnthropicMessagesRequest.thinking and output_config, VllmConfig.reasoning_config.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicMessagesRequest,
    AnthropicThinkingConfigAdaptive,
)

from sampling.endpoints import Endpoint

#: The fields that only a model that thinks can use.
_FIELDS: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    Endpoint.CHAT: ("reasoning_effort",),
    Endpoint.RESPONSES: ("reasoning",),
    Endpoint.MESSAGES: ("thinking", "output_config.effort"),
}


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the model can do."""

    thinks: bool
    limits_tokens: bool
    """Whether the engine can end the thinking after a number of tokens."""

    @classmethod
    async def of(cls, messages: Any, engine: Any, args: argparse.Namespace) -> Thinking:
        """Find it out.

        Args:
            messages: vLLM's handler of Anthropic's messages; it renders probes of its template.
            engine: has the engine's configuration.
            args: of the handlers.
        """
        parser = args.structured_outputs_config.reasoning_parser or getattr(args, "reasoning_parser", "")
        disabled = await messages._get_disabled_thinking_effort()
        thinks = bool(parser) or disabled == "none"
        if not thinks:
            thinks = await messages._render_probe_prompt("low") != await messages._render_probe_prompt("max")
        return cls(thinks, engine.vllm_config.reasoning_config is not None)

    def unused(self, endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the body's fields that have no effect, with dots for those within others."""
        if not self.thinks:
            return tuple(name for name in _FIELDS.get(endpoint, ()) if _value(body, name) is not None)
        is_limited = endpoint is Endpoint.MESSAGES and _value(body, "thinking.budget_tokens") is not None
        return ("thinking.budget_tokens",) if is_limited and not self.limits_tokens else ()

    def remove_unused(self, request: AnthropicMessagesRequest | AnthropicCountTokensRequest) -> None:
        """Take out of a validated request what the model cannot do."""
        if not self.thinks:
            request.thinking = None
            if request.output_config is not None:
                request.output_config.effort = None
        elif request.thinking is not None and request.thinking.type == "enabled" and not self.limits_tokens:
            request.thinking = AnthropicThinkingConfigAdaptive(type="adaptive")


def _value(body: Mapping[str, Any], name: str) -> Any:
    value: Any = body
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
