"""The tasks of a prompt worker: large bodies are parsed, checked, validated, rendered and tokenized here.

The same wire models, handlers and renderer of vLLM as in the API process do it, so the token ids are the same. The
renderer is stopped right after its work: `_Rendered` carries its result past the rest of the handler.
Leans on (vLLM 0.32): what `server.engine.handlers` leans on, vllm.renderers.registry.renderer_from_config,
BaseRenderer.render_chat_async and render_cmpl_async, VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from vllm import envs
from vllm.config import VllmConfig
from vllm.renderers import BaseRenderer
from vllm.renderers.registry import renderer_from_config

from sampling.endpoints import Endpoint
from sampling.errors import RequestError
from sampling.json_limits import PROMPT_FIELDS
from sampling.limits import Limits
from server.engine.handlers import VllmHandlers
from server.engine.rendering.prompt import RenderedPrompt
from server.errors import InvalidRequest
from server.request.batch import split
from server.request.body import Body, read, with_prompt, without_prompt

Result = TypeVar("Result")
#: In the names of the parts of a message that are no text: `image_url`, `input_audio`, `video_url`, `input_file`, …
_MEDIA = ("image", "audio", "video", "file")
#: Changes what a renderer does, as the engine's own renderer in the API process is changed; a function of a module.
Wrap = Callable[[BaseRenderer[Any]], None]


class _Rendered(BaseException):
    """The prompt is rendered; not an Exception, which vLLM's handlers would turn into an answer."""

    def __init__(self, prompt: RenderedPrompt) -> None:
        super().__init__()
        self.prompt = prompt


class _RenderingEngine:
    """Stands where vLLM's handlers expect an engine: it has a renderer and generates nothing."""

    errored = False
    input_processor = None

    def __init__(self, config: VllmConfig, renderer: BaseRenderer[Any]) -> None:
        self.vllm_config = config
        self.model_config = config.model_config
        self.renderer = renderer

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """It renders for generation."""
        return ("generate",)

    def check_admission(self, n: int) -> None:
        """The API process decides that."""


class _Worker:
    """The handlers of this process, and their renderer."""

    def __init__(self, config: VllmConfig, arguments: argparse.Namespace, wrap: Wrap | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._renderer = renderer_from_config(config)
        if wrap is not None:
            wrap(self._renderer)
        engine: Any = _RenderingEngine(config, self._renderer)
        self.handlers = self.run(VllmHandlers.build(engine, arguments))
        self._stops = False
        self._install()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run it to its end."""
        return self._loop.run_until_complete(work)

    def render(self, endpoint: Endpoint, body: dict[str, Any]) -> RenderedPrompt:
        """Validate a body and render its prompt. Raises: LoragateError."""
        self._stops = True
        try:
            self.run(self.handlers.serve(endpoint, body))
        except _Rendered as done:
            return done.prompt
        finally:
            self._stops = False
        raise InvalidRequest("The request has no prompt.")

    def _install(self) -> None:
        """Stop after the renderer where only the prompt is wanted."""
        renderer = self._renderer
        chat, completion = renderer.render_chat_async, renderer.render_cmpl_async

        async def render_chat_async(*arguments: Any, **named: Any) -> Any:
            conversations, inputs = await chat(*arguments, **named)
            if self._stops:
                raise _Rendered(_packed(conversations[0], inputs))
            return conversations, inputs

        async def render_cmpl_async(*arguments: Any, **named: Any) -> Any:
            inputs = await completion(*arguments, **named)
            if self._stops:
                raise _Rendered(_packed([], inputs))
            return inputs

        renderer.render_chat_async = render_chat_async
        renderer.render_cmpl_async = render_cmpl_async


_worker: _Worker


def setup(config: VllmConfig, arguments: argparse.Namespace, wrap: Wrap | None = None) -> None:
    """Load tokenizer, template and handlers into a new worker; `wrap` is applied to its renderer."""
    global _worker
    envs.VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT = 0  # `render_s` bounds it, and ends the process
    logging.getLogger("vllm").setLevel(logging.ERROR)  # the server has said it all at its own start
    _worker = _Worker(config, arguments, wrap)


def read_body(raw: bytes, endpoint: Endpoint, limits: Limits) -> dict[str, Any]:
    """In a worker: check a body; returns it without its prompt. Raises: InvalidRequest."""
    try:
        return without_prompt(read(raw, limits), endpoint)
    except RequestError as error:
        _refuse(error)


def read_text_body(raw: bytes, endpoint: Endpoint, limits: Limits) -> dict[str, Any] | None:
    """As `read_body`; None if the prompt has pictures, sounds or files, which only the server itself can render.

    Raises: InvalidRequest.
    """
    try:
        body = read(raw, limits)
    except RequestError as error:
        _refuse(error)
    if any(_has_media(body.get(name)) for name in PROMPT_FIELDS):
        return None
    return without_prompt(body, endpoint)


def _has_media(value: Any) -> bool:
    """Whether a part of another type than text is in it; part and field have the kind in their names."""
    if isinstance(value, list):
        return any(map(_has_media, value))
    if not isinstance(value, dict):
        return False
    names = [*value, kind] if isinstance(kind := value.get("type"), str) else list(value)
    return any(medium in name for name in names for medium in _MEDIA) or any(map(_has_media, value.values()))


def render(raw: bytes, endpoint: Endpoint, lean: dict[str, Any], limits: Limits) -> RenderedPrompt:
    """In a worker: render the prompt of a body, with the options of `lean`. Raises: LoragateError."""
    try:
        return _worker.render(endpoint, with_prompt(lean, read(raw, limits)))
    except RequestError as error:
        _refuse(error)


def split_batch(raw: bytes, limits: Limits) -> list[bytes]:
    """In a worker: the bodies of the chats of a batch. Raises: InvalidRequest."""
    try:
        return split(raw, limits)
    except RequestError as error:
        _refuse(error)


def tokenize(raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
    """The model asked for, the JSON of /tokenize's answer, and its number of tokens. Raises: LoragateError."""
    try:
        body = read(raw, limits)
        answer = _worker.run(_worker.handlers.tokenize(Body(body), "worker"))
    except RequestError as error:
        _refuse(error)
    return body.get("model"), answer.model_dump_json().encode(), len(answer.tokens)


def detokenize(raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
    """The model asked for, the JSON of /detokenize's answer, and the number of tokens sent. Raises: LoragateError."""
    try:
        body = read(raw, limits)
        answer = _worker.run(_worker.handlers.detokenize(Body(body), "worker"))
    except RequestError as error:
        _refuse(error)
    return body.get("model"), answer.model_dump_json().encode(), len(body["tokens"])


def count_tokens(raw: bytes, limits: Limits) -> tuple[Any, bytes, int]:
    """The model asked for, the JSON of the count of a prompt's tokens, and the count. Raises: LoragateError."""
    try:
        body = read(raw, limits)
        answer = _worker.run(_worker.handlers.count_tokens(Body(body), "worker"))
    except RequestError as error:
        _refuse(error)
    return body.get("model"), answer.model_dump_json().encode(), answer.input_tokens


def _packed(conversation: list[Any], inputs: list[Any]) -> RenderedPrompt:
    try:
        return RenderedPrompt.of(conversation, inputs)
    except OverflowError as error:
        raise InvalidRequest("A token id of the prompt is out of vocabulary.", param="prompt") from error


def _refuse(error: RequestError) -> NoReturn:
    """The refusal in a form that pickle can rebuild."""
    raise InvalidRequest(str(error), param=error.param, code="invalid_value") from error
