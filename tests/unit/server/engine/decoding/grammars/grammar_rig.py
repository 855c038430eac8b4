"""Compiles grammars as a worker does, loads them as the engine does, and walks through them: no engine needed."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.config import DeviceConfig, ModelConfig, StructuredOutputsConfig, VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.parser_manager import ParserManager
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from server.engine.decoding.grammars import files, worker
from server.engine.decoding.grammars.prepared_backend import PreparedBackend
from server.engine.decoding.grammars.watched_grammar import WatchedGrammar

MODEL = Path(__file__).parents[6] / "demo" / "model"
#: Of a walk: a longer answer is left unfinished.
MAX_STEPS = 160


class GrammarRig:
    """One compiler and one backend for the demo model, which has 3,300 tokens."""

    def __init__(self, folder: Path, backend: Any = "auto") -> None:
        model = ModelConfig(model=str(MODEL), tokenizer=str(MODEL), dtype="float32")
        self.config = VllmConfig(
            model_config=model,
            device_config=DeviceConfig("cpu"),
            structured_outputs_config=StructuredOutputsConfig(backend=backend),
        )
        self.folder = folder
        self.compiler = worker.Compiler(self.config)
        self.tokenizer = self.compiler.libraries.tokenizer
        self.vocab_size = self.compiler.libraries.vocab_size
        self.backend = PreparedBackend(self.config, self.tokenizer, self.vocab_size, folder)
        self._parser: Any = ParserManager.get_parser(
            "hermes", enable_auto_tools=True, tokenizer=self.tokenizer
        )
        self._end = self.tokenizer.eos_token_id
        self._texts = [self.tokenizer.decode([token]) for token in range(self.vocab_size)]
        # A part of a character is no text, and the second validator reads U+0085 as white space.
        self._usable = np.array([bool(t) and "\ufffd" not in t and "\x85" not in t for t in self._texts])
        self._usable[self._end] = False
        self._ends = np.array([text in '"]}' for text in self._texts])

    def tag(self, **body: Any) -> str | None:
        """The structural tag that vLLM makes of the tools of a chat request; None where it makes none."""
        request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "?"}], **body)
        adjusted = self._parser(self.tokenizer, request.tools).adjust_request(request)
        outputs = adjusted.structured_outputs
        return None if outputs is None else outputs.structural_tag

    def forced_call(self, schema: Any) -> str:
        """The tag of a forced call of the tool `f` with this schema."""
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        tag = self.tag(tools=[tool], tool_choice="required", parallel_tool_calls=False)
        assert tag is not None
        return tag

    @staticmethod
    def call_of(arguments: str) -> str:
        """The text of a call of `f`."""
        return f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'

    @staticmethod
    def arguments(call: str) -> str:
        """The arguments of such a text, with or without line ends."""
        return call.partition('"arguments": ')[2].rpartition("</tool_call>")[0].rstrip().removesuffix("}")

    def prepared(self, **constraint: Any) -> tuple[str, str]:
        """The library and the name of a prepared grammar. Raises: GrammarRefused, TooComplex."""
        name = "t-" + hashlib.sha256(json.dumps(constraint).encode()).hexdigest()[:24]
        params = StructuredOutputsParams(**constraint)
        order = worker.Order(params, str(self.folder / name), str(self.folder / "scratch"), max_depth=64)
        return self.compiler.compile(order).library, name

    def started(self, name: str) -> WatchedGrammar:
        """A prepared grammar at its beginning, as the engine loads it."""
        return self.backend.compile_grammar(StructuredOutputOptions.GRAMMAR, files.PREFIX + name)

    def walk(self, name: str, draw: random.Random, words: str) -> str | None:
        """A random answer that the grammar accepts; None for one that does not end.

        Args:
            name: of the grammar.
            draw: decides the walk.
            words: tokens that occur in this text are preferred, so that names and values of a schema come up.
        """
        grammar, tokens = self.started(name), list[int]()
        known = self._known(words)
        for step in range(MAX_STEPS):
            mask = self._mask(grammar)
            if grammar.failed:
                return None
            is_late = step > MAX_STEPS // 2
            if mask[self._end] and (is_late or draw.random() < 0.4):
                break
            preferred = [self._ends] if is_late else [known] if draw.random() < 0.8 else []
            token = _choice(mask & self._usable, preferred, draw)
            if token is None:
                if mask[self._end]:
                    break
                return None
            grammar.accept_tokens("", [token])
            tokens.append(token)
            if grammar.is_terminated():
                break
        else:
            return None
        return str(self.tokenizer.decode(tokens))

    @functools.cache  # noqa: B019 - a rig lives until the end of the session
    def _known(self, words: str) -> np.ndarray[Any, Any]:
        return np.array([text.strip() in words for text in self._texts])

    def accepts(self, name: str, text: str) -> bool:
        """Whether a text is a whole answer of the grammar."""
        grammar = self.started(name)
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if grammar.validate_tokens(tokens) != tokens:
            return False
        grammar.accept_tokens("", tokens)
        return not grammar.failed and (grammar.is_terminated() or bool(self._mask(grammar)[self._end]))

    def _mask(self, grammar: WatchedGrammar) -> np.ndarray[Any, Any]:
        mask = torch.zeros((1, (self.vocab_size + 31) // 32), dtype=torch.int32)
        grammar.fill_bitmask(mask, 0)
        bits = np.unpackbits(mask.numpy().view(np.uint8)[0], bitorder="little")
        return bits[: self.vocab_size].astype(bool)


def _choice(
    allowed: np.ndarray[Any, Any], preferred: list[np.ndarray[Any, Any]], draw: random.Random
) -> int | None:
    """One of the allowed tokens, of those preferred if there are any; None without one."""
    for tokens in [*(allowed & some for some in preferred), allowed]:
        (found,) = tokens.nonzero()
        if len(found):
            return int(found[draw.randrange(len(found))])
    return None
