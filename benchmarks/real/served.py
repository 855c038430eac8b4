"""What the served base and the served adapter answer, beside what was expected and what peft computes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.training.data.chat_template import Renderer, Turn
from adapters.training.data.reader import read_conversations
from adapters.training.evaluation.metrics import Score, held_out_turns, score
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.processes.tenant_server import KEY, NAME, TENANT, add_adapters, start_bench_server
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.servers import EngineFlags
from benchmarks.real.general_questions import is_right
from benchmarks.real.greedy_answers import unlike_greedy
from benchmarks.real.journey import ASSISTANT, Journey

Ids = tuple[int, ...]
CALL_TOKENS, GENERAL_TOKENS = 96, 24
_MODEL = f"{TENANT}-{ASSISTANT}"
_AT_ONCE = 16
_COMPARED = 30  # answers of each kind that are compared with peft's
#: Logits of the same model that two implementations compute in float32 differ by less.
_GAP = 1e-3


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out turns of a journey: of chats with function calls, and of general questions."""

    renderer: Renderer
    calls: Sequence[Turn]
    general: Sequence[Turn]

    @classmethod
    def of(cls, journey: Journey) -> HeldOut:
        """Read them."""
        renderer = Renderer(AutoTokenizer.from_pretrained(journey.base, local_files_only=True), "<|im_end|>")
        calls, general = (
            held_out_turns(renderer, read_conversations(journey.data(name)), 1000)
            for name in ("calls-held-out", "general-held-out")
        )
        return cls(renderer, calls, general)

    def score_calls(self, answers: Sequence[Ids]) -> Score:
        """The shares of right answers to the first turns with calls."""
        return score(self.renderer, self.calls[: len(answers)], answers)

    def right_general(self, answers: Sequence[Ids]) -> int:
        """How many answers to general questions are right."""
        texts = self.renderer.tokenizer.batch_decode([list(answer) for answer in answers])
        questions = [str(turn.before[-1]["content"]) for turn in self.general]
        return sum(is_right(asked, text) for asked, text in zip(questions, texts, strict=True))


def measure_served(
    journey: Journey, home: Path, progress: ProgressReporter, *, compare: bool
) -> dict[str, float]:
    """Serve base and adapter in float32, ask both the held-out turns, and with `compare` ask peft, too.

    Raises:
        ServerFailed: the server does not start.
        BenchmarkFailed: the base answers no general question, so nothing can be kept.
    """
    held_out = HeldOut.of(journey)
    flags = EngineFlags(
        journey.base, NAME, kv_cache_bytes=512 * 1024**2, max_num_seqs=_AT_ONCE, max_model_len=2048
    )
    with start_bench_server(flags, home) as server:
        progress.log(f"ready after {server.wait_ready():.1f} s")
        add_adapters(server.url, {_MODEL: journey.adapter(ASSISTANT)})
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            calls, general = (
                {name: ask(client, name, turns, tokens) for name in (NAME, _MODEL)}
                for turns, tokens in ((held_out.calls, CALL_TOKENS), (held_out.general, GENERAL_TOKENS))
            )
    scores = {name: held_out.score_calls(answers) for name, answers in calls.items()}
    right = {name: held_out.right_general(answers) for name, answers in general.items()}
    if not right[NAME]:
        raise BenchmarkFailed("The base answers no general question: what the adapter keeps cannot be told.")
    figures = {
        "calls_right": scores[_MODEL].tool_calls or 0.0,
        "calls_right_base": scores[NAME].tool_calls or 0.0,
        "calls_valid": scores[_MODEL].json_valid or 0.0,
        "exact": scores[_MODEL].exact,
        "general_kept": right[_MODEL] / right[NAME],
        "general_right_base": right[NAME] / len(held_out.general),
    }
    if compare:
        progress.log("computing the same with peft")
        kinds = ((held_out.calls, calls[_MODEL]), (held_out.general, general[_MODEL]))
        figures |= _compare_with_peft(journey, kinds)
    return figures


def ask(client: openai.OpenAI, model: str, turns: Sequence[Turn], tokens: int) -> list[Ids]:
    """The greedy answers to the prompts of `turns`, through the end token."""

    def answer(turn: Turn) -> Ids:
        found = client.completions.create(
            model=model,
            prompt=list(turn.prompt),
            max_tokens=tokens,
            temperature=0.0,
            extra_body={"return_token_ids": True, "repetition_penalty": 1.0},
        )
        return tuple((found.choices[0].model_extra or {})["token_ids"])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(answer, turns))


def _compare_with_peft(
    journey: Journey, kinds: Sequence[tuple[Sequence[Turn], Sequence[Ids]]]
) -> dict[str, float]:
    """How many of the answers peft gives, too, where two logits differ by more than rounding."""
    model = load_peft(journey)
    compared, equal = 0, 0
    for turns, answers in kinds:
        pairs = [(turn.prompt, answer) for turn, answer in zip(turns, answers, strict=True)][:_COMPARED]
        places = unlike_greedy(model, pairs, gap=_GAP)
        compared, equal = compared + len(pairs), equal + sum(place is None for place in places)
    return {"served_equals_peft": float(equal), "answers_compared": float(compared)}


def load_peft(journey: Journey) -> PeftModel:
    """The adapter on the base, in float32."""
    base = AutoModelForCausalLM.from_pretrained(journey.base, dtype=torch.float32, local_files_only=True)
    return PeftModel.from_pretrained(base, str(journey.adapter(ASSISTANT))).eval()
