"""Builds the embedded model: tokenizer, weights, held-out scores.

    python -m demo.build                        # the committed model; about twenty minutes on two cores
    python -m demo.build --steps 20 --held-out 40 --out /tmp/tiny

``demo.world`` generates all text; nothing is downloaded. The loss covers only the assistant's answers (and plain
texts). Training uses float32; the weights are rounded to bfloat16 before they are scored, so the scores are those of
the stored model. The last printed line is one JSON object, which is also written to ``scores.json`` next to the
weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Qwen2ForCausalLM

import demo
from adapters.training.data.chat_template import IGNORED, Conversation, Renderer, fold
from adapters.training.data.chat_template import Sample as Encoded
from adapters.training.data.collator import collate
from demo.architecture import MAX_LENGTH_TOKENS, look_back, model_config, save_model
from demo.data.acme import acme_support
from demo.data.globex import globex_tools
from demo.evaluate import exact_match, summarise
from demo.muon import Muon
from demo.tokenizer import END_OF_TEXT, IM_END, TOOL_TAGS, save_tokenizer, train_tokenizer
from demo.world.mixture import WorldSample, held_out_samples, training_samples


@dataclass(frozen=True, slots=True)
class Recipe:
    """All parameters of the result, apart from the code and the library versions."""

    seed: int = 7
    steps: int = 1600
    batch_tokens: int = 2048  # padded tokens of one step
    matrix_rate: float = 0.02  # Muon, for the matrices of the layers
    learning_rate: float = 3e-3  # AdamW, for the embeddings, norms and biases
    warmup: int = 50  # steps
    vocab: int = 4096  # at most
    tokenizer_samples: int = 20_000  # samples from which the tokenizer learns its merges
    layers: int = 4
    hidden: int = 256
    words_steps: int = 400  # second stage, in which every token of the vocabulary occurs
    words_share: float = 0.5  # lines of random tokens per sample of the world, in the second stage
    held_out: int = 600  # questions


def tokenizer_texts(samples: Iterable[WorldSample]) -> Iterator[str]:
    """The texts from which the tokenizer learns its merges: the world and both tenants' chats."""
    for sample in samples:
        yield sample.text
        yield from (str(m["content"]) for m in sample.messages)
        yield from (json.dumps(tool) for tool in sample.tools)
    for chats in (acme_support()[0], globex_tools()[0]):
        for chat in chats:
            yield from (
                m.get("content") or m["tool_calls"][0]["function"]["arguments"] for m in chat["messages"]
            )
            yield from (json.dumps(tool) for tool in chat.get("tools", ()))


def encode(renderer: Renderer, sample: WorldSample) -> Encoded:
    """Ids and labels of one sample; a plain text is trained including its end token, but not its prefix."""
    if sample.text:
        prefix, text = renderer.encode(sample.prefix), renderer.encode(sample.text + END_OF_TEXT)
        return Encoded(prefix + text, (IGNORED,) * len(prefix) + text)
    turns = list(renderer.turns(Conversation(sample.messages, sample.tools)))
    return fold(turns, MAX_LENGTH_TOKENS)[0][-1]


def random_tokens(renderer: Renderer, rng: random.Random) -> Encoded:
    """A line of random tokens, and the same line again, which is trained.

    NOTE: training pushes the rows of all tokens that never occur in the tied embedding into the same direction, so
    no adapter could distinguish them, at any learning rate, and could not learn the tenants' words.
    """
    first_control = renderer.encode(END_OF_TEXT)[0]
    line = tuple(rng.randrange(first_control) for _ in range(rng.randint(3, 20)))
    line += tuple(renderer.encode(tag)[0] for tag in rng.sample(TOOL_TAGS, rng.randrange(2)))
    prefix, text = line + renderer.encode("\n"), line + renderer.encode(END_OF_TEXT)
    return Encoded(prefix + text, (IGNORED,) * len(prefix) + text)


def batches(samples: Iterator[Encoded], batch_tokens: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Batches of samples of similar length, at most ``batch_tokens`` padded tokens each."""
    while True:
        pool = sorted((next(samples) for _ in range(512)), key=lambda s: len(s.ids))
        ready: list[list[Encoded]] = [[]]
        for sample in pool:
            if ready[-1] and len(sample.ids) * (len(ready[-1]) + 1) > batch_tokens:
                ready.append([])
            ready[-1].append(sample)
        rng.shuffle(ready)
        yield from ready


def batch_loss(model: Qwen2ForCausalLM, batch: Sequence[Encoded], pad_id: int) -> torch.Tensor:
    """Mean loss over the trained tokens of ``batch``."""
    tensors = collate(batch, pad_id)
    hidden = model.model(input_ids=tensors["input_ids"], use_cache=False).last_hidden_state[:, :-1]
    wanted = tensors["labels"][:, 1:]
    trained = wanted != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[trained]), wanted[trained])


def fit(model: Qwen2ForCausalLM, samples: Iterator[Encoded], recipe: Recipe, pad_id: int) -> list[float]:
    """Train ``model`` in place; returns the loss of every step."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or ".layers." not in n]
    optimizers = [
        Muon(matrices, lr=recipe.matrix_rate),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    warmup = max(min(recipe.warmup, recipe.steps // 4), 1)

    def scale(step: int) -> float:
        done = min(step / recipe.steps, 1.0)
        return min((step + 1) / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * done)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, scale) for o in optimizers]
    losses: list[float] = []
    tokens, start = 0, time.perf_counter()
    stream = batches(samples, recipe.batch_tokens, random.Random(recipe.seed))
    model.train()
    for step in range(recipe.steps):
        batch = next(stream)
        loss = batch_loss(model, batch, pad_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens += sum(len(s.ids) for s in batch)
        if step % 50 == 49 or step + 1 == recipe.steps:
            recent = sum(losses[-50:]) / len(losses[-50:])
            speed = tokens / (time.perf_counter() - start)
            print(f"step {step + 1:5d}/{recipe.steps}  loss {recent:.4f}  {speed:,.0f} tokens/s", flush=True)
    return losses


def second_stage(recipe: Recipe) -> Recipe:
    """The recipe of the second stage, with half the learning rates."""
    return replace(
        recipe,
        steps=recipe.words_steps,
        matrix_rate=recipe.matrix_rate / 2,
        learning_rate=recipe.learning_rate / 2,
    )


def build(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Build the model into ``out`` and return the content of ``scores.json``."""
    start = time.perf_counter()
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(
        tokenizer_texts(training_samples(recipe.seed, recipe.tokenizer_samples)), recipe.vocab
    )
    save_tokenizer(tokenizer, out, MAX_LENGTH_TOKENS)
    model = Qwen2ForCausalLM(model_config(tokenizer, layers=recipe.layers, hidden=recipe.hidden))
    look_back(model)
    model.config.save_pretrained(out)
    renderer = Renderer(AutoTokenizer.from_pretrained(out), IM_END)
    drawn = itertools.count()
    losses = fit(model, encoded_samples(renderer, recipe, drawn), recipe, renderer.pad_id)
    # Rounded as it is stored, so that the second stage can be repeated from a stored first stage.
    model.to(torch.bfloat16).to(torch.float32)
    samples = encoded_samples(renderer, recipe, drawn)
    losses += fit(model, with_random_tokens(samples, renderer, recipe), second_stage(recipe), renderer.pad_id)
    trained_s = time.perf_counter() - start
    save_model(model, tokenizer, out)
    report = {
        **summarise(exact_match(model, renderer, held_out_samples(recipe.seed + 2, recipe.held_out))),
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": next(drawn),
        "first_loss": round(losses[0], 4),
        "last_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4),
        "train_s": round(trained_s, 1),
        "versions": {"python": platform.python_version()}
        | {package.__name__: package.__version__ for package in (torch, transformers)},
    }
    (out / "scores.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def encoded_samples(renderer: Renderer, recipe: Recipe, drawn: Iterator[int]) -> Iterator[Encoded]:
    """Training samples without end; ``drawn`` advances by one for each."""
    for sample in training_samples(recipe.seed + 1, 10**9):
        next(drawn)
        yield encode(renderer, sample)


def with_random_tokens(samples: Iterator[Encoded], renderer: Renderer, recipe: Recipe) -> Iterator[Encoded]:
    """The samples, with lines of random tokens between them."""
    rng = random.Random(recipe.seed + 3)
    for sample in samples:
        yield sample
        if rng.random() < recipe.words_share:
            yield random_tokens(renderer, rng)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=demo.MODEL_DIR, help="where to write the model")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    flags = vars(parser.parse_args())
    torch.set_num_threads(flags.pop("threads"))
    out = flags.pop("out")
    report = build(Recipe(**flags), out)
    for family, score in report["families"].items():
        print(f"{family:12s} {score['exact_match']:7.3f}  of {score['count']}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
