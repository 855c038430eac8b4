"""Keeps control tokens in callers' messages from being control: `adapters.control_tokens` in vLLM's renderer.

Every endpoint that has messages (chat, responses, messages, and /tokenize with messages) renders them in
`HfRenderer.render_messages_async` and encodes the result in `_tokenize_prompt_async`. Both call functions that the
renderer keeps in its attributes; this module replaces those. A raw prompt of /v1/completions or /tokenize does not
come from a template: its caller writes the whole prompt, control tokens included.

Leans on (vLLM 0.32): vllm.renderers.hf.HfRenderer (`_apply_chat_template_async`, `_tokenize_prompt`,
`_tokenize_prompt_async`, `_wants_offsets`, `_build_tokens_prompt`, `_executor`), safe_apply_chat_template,
vllm.renderers.params.TokenizeParams.get_encode_kwargs, vllm.utils.async_utils.make_async, and get_placeholder_str of
multimodal models.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.renderers.params import TokenizeParams
from vllm.utils.async_utils import make_async

from adapters.control_tokens import ControlTokens, MarkedText, UnmarkableText
from server.errors import SettingsError

#: Arguments of the chat template that are the server's own.
_SERVERS = frozenset({"chat_template", "tokenize", "return_dict"})
_MODALITIES = ("image", "audio", "video")


def keep_as_text(renderer: BaseRenderer) -> None:
    """Encode control tokens in callers' messages as text.

    Args:
        renderer: the renderer of a started engine; one without a tokenizer encodes nothing and stays as it is.

    Raises:
        SettingsError: vLLM renders for this tokenizer without a chat template, so the two cannot be told apart.
    """
    if renderer.tokenizer is None:
        return
    if not isinstance(renderer, HfRenderer):
        raise SettingsError(
            f"vLLM renders chats for this model with {type(renderer).__name__}, where control tokens in callers' "
            "text cannot be kept from being control tokens. Start with --allow-control-tokens if that is acceptable."
        )
    tokens = ControlTokens(renderer.tokenizer, _placeholders(renderer))
    tokenize = partial(_tokenize, tokens, renderer, renderer._tokenize_prompt)
    renderer._tokenize_prompt = tokenize
    renderer._tokenize_prompt_async = make_async(tokenize, executor=renderer._executor)
    renderer._apply_chat_template_async = make_async(partial(_render, tokens), executor=renderer._executor)


def _render(
    tokens: ControlTokens, model_config: Any, tokenizer: Any, conversation: list[Any], **arguments: Any
) -> str | list[int]:
    """Replaces `safe_apply_chat_template`; runs in the renderer's threads."""
    callers = {name: value for name, value in arguments.items() if name not in _SERVERS}
    try:
        marked = tokens.mark(conversation, callers)
    except UnmarkableText as error:
        raise VLLMValidationError(str(error), parameter="messages") from error
    if marked is None:
        rendered: str | list[int] = safe_apply_chat_template(
            model_config, tokenizer, conversation, **arguments
        )
        return rendered
    written = {**arguments, **marked.variables, "tokenize": False}
    text = MarkedText(
        safe_apply_chat_template(model_config, tokenizer, marked.messages, **written), marked.mark
    )
    return tokens.encode(text).ids if arguments.get("tokenize", True) else text


def _tokenize(
    tokens: ControlTokens, renderer: HfRenderer, original: Any, prompt: Any, params: TokenizeParams
) -> Any:
    """Replaces `HfRenderer._tokenize_prompt`; runs in the renderer's threads."""
    text = prompt["prompt"]
    if not isinstance(text, MarkedText):
        return original(prompt, params)
    ids, spans = tokens.encode(text, add_special_tokens=params.add_special_tokens)
    how = params.get_encode_kwargs()
    if how["truncation"] and len(ids) > how["max_length"]:
        from_left = renderer.tokenizer.truncation_side == "left"
        kept = slice(-how["max_length"], None) if from_left else slice(how["max_length"])
        ids, spans = ids[kept], spans[kept]
    return renderer._build_tokens_prompt(
        ids,
        {**prompt, "prompt": text.unmarked},
        offset_mapping=spans if renderer._wants_offsets(prompt, params) else None,
    )


def _placeholders(renderer: HfRenderer) -> str:
    """What vLLM writes into callers' text for images, sound and embeddings; empty for a model of text only."""
    config, written = renderer.model_config, ""
    if config.enable_prompt_embeds:
        from vllm.renderers.hf import PROMPT_EMBEDS_PLACEHOLDER_TOKEN

        written = PROMPT_EMBEDS_PLACEHOLDER_TOKEN
    if renderer.mm_processor is not None:
        from vllm.model_executor.model_loader import get_model_cls

        model = get_model_cls(config)
        written += " ".join(model.get_placeholder_str(modality, 1) or "" for modality in _MODALITIES)
    return written
