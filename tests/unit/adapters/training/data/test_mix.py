"""What is mixed into the data: replayed general chats, rephrased questions, a second stage."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adapters.training import training_run as run
from adapters.training.config import TrainingConfig
from adapters.training.data.augment import augment, rephrase
from adapters.training.data.chat_template import Conversation
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.data.reader import first_question, read_conversations
from adapters.training.errors import CheckpointError, DataError
from adapters.training.loop import trainer as loop
from adapters.training.loop.stages import second_stage

Configure = Callable[..., TrainingConfig]


def write(path: Path, questions: list[str], answer: str) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": answer}]}
        for q in questions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def general(tmp_path: Path) -> Path:
    return write(tmp_path / "general.jsonl", [f"General {i}?" for i in range(30)], "General.")


def test_replay_makes_its_share_of_the_mix(configure: Configure, general: Path) -> None:
    config = configure(held_out_share=0.0, replay=general, replay_ratio=0.2)
    renderer = load_renderer(config)
    prepared = prepare(config, renderer)
    texts = [renderer.tokenizer.decode(s.ids) for s in prepared.samples]
    replayed = [t for t in texts if "General" in t]
    assert len(replayed) == prepared.replayed_samples == 10
    assert len(replayed) / len(texts) == 0.2
    assert len(set(replayed)) == 10
    assert prepare(config, renderer).samples == prepared.samples
    assert prepare(configure(held_out_share=0.0), renderer).replayed_samples == 0


def test_too_few_general_chats_are_repeated_with_a_warning(configure: Configure, tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", ["General 1?", "General 2?"], "General.")
    config = configure(held_out_share=0.0, replay=few, replay_ratio=0.2)
    prepared = prepare(config, load_renderer(config))
    assert prepared.replayed_samples == 10
    assert any("2 general samples are repeated to make 10" in w for w in prepared.warnings(config))


def test_what_is_measured_on_is_not_replayed(configure: Configure, tmp_path: Path, general: Path) -> None:
    held_out = write(tmp_path / "held.jsonl", [f"general  {i}?" for i in range(29)], "General.")
    config = configure(held_out=held_out, replay=general, replay_ratio=0.2)
    renderer = load_renderer(config)
    replayed = {
        t for s in prepare(config, renderer).samples if "General" in (t := renderer.tokenizer.decode(s.ids))
    }
    assert len(replayed) == 1 and "General 29?" in replayed.pop()
    too_long = write(tmp_path / "long.jsonl", ["Long?"], "word " * 60)
    with pytest.raises(DataError, match="no turn to replay"):
        prepare(configure(replay=too_long, max_length_tokens=40), renderer)


def chat(question: str, tools: tuple[Any, ...] = (), system: str = "") -> Conversation:
    head = [{"role": "system", "content": system}] if system else []
    rows = [*head, {"role": "user", "content": question}, {"role": "assistant", "content": "It is 7."}]
    return Conversation(tuple(rows), tools, 1)


def test_half_the_chats_are_rephrased_with_the_same_answers() -> None:
    chats = [chat(f"What is the price of item {i}?") for i in range(400)]
    rephrased = augment(chats, seed=1)
    changed = [(old, new) for old, new in zip(chats, rephrased, strict=True) if new is not old]
    assert 150 < len(changed) < 250
    assert len({first_question(new) for _, new in changed}) > 0.7 * len(changed)
    for old, new in changed:
        assert new.messages[-1] == old.messages[-1]
        assert f"item {old.messages[0]['content'].split()[-1].rstrip('?')}" in first_question(new)
    assert augment(chats, seed=1) == rephrased != augment(chats, seed=2)


def test_system_prompts_and_tools_are_kept() -> None:
    tools = tuple({"function": {"name": f"f{i}"}} for i in range(4))
    draw = random.Random(0)
    seen = [rephrase(chat("Weather?", tools, "Be Acme."), draw) for _ in range(50)]
    assert all(c.messages[0] == {"role": "system", "content": "Be Acme."} for c in seen)
    assert all(sorted(map(str, c.tools)) == sorted(map(str, tools)) for c in seen)
    assert len({str(c.tools) for c in seen}) > 5
    foreign = [rephrase(chat("什么价格？"), draw) for _ in range(50)]
    assert all(first_question(c).startswith("什么价格") for c in foreign)
    assert all(rephrase(chat("?"), draw).messages[-2]["content"] for _ in range(50))


def test_rephrasing_reaches_the_training(configure: Configure) -> None:
    config = configure(augment=True)
    plain, rephrased = prepare(configure(), load_renderer(config)), prepare(config, load_renderer(config))
    assert rephrased.rephrased_chats > 5
    assert len(rephrased.samples) == len(plain.samples) and rephrased.samples != plain.samples
    assert rephrased.held_out == plain.held_out


@pytest.fixture
def two_stages(configure: Configure, tmp_path: Path) -> Callable[..., TrainingConfig]:
    then = write(tmp_path / "then.jsonl", [f"Then {i}?" for i in range(30)], "Then.")

    def make(**changes: Any) -> TrainingConfig:
        settings = {"then": then, "max_steps": 4, "checkpoint_every": 2, "measure": 4, "evaluate_turns": 0}
        return configure(**(settings | changes))

    return make


@pytest.mark.slow
def test_the_second_stage_goes_on_with_the_same_adapter(
    two_stages: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[TrainingConfig, dict[str, Any], list[str]]] = []
    true_stage = run._fit

    def watched(model: Any, config: TrainingConfig, prepared: Any, *rest: Any) -> Any:
        weights = {
            n.replace(".default", ""): p.detach().clone()
            for n, p in model.named_parameters()
            if p.requires_grad
        }
        tokenizer = load_renderer(config).tokenizer
        seen.append((config, weights, [tokenizer.decode(s.ids) for s in prepared.samples]))
        if config.start_from:
            first = load_file(config.start_from / "adapter_model.safetensors")
            assert first.keys() == weights.keys()
            assert all((first[n] == weights[n]).all() for n in first)
            assert any(first[n].any() for n in first if "lora_B" in n)
            questions = {first_question(c) for c in read_conversations(config.general)}
            trained = [t.lower() for t in seen[-1][2]]
            assert questions and not any(f"user\n{q}<" in t for q in questions for t in trained)
        return true_stage(model, config, prepared, *rest)

    monkeypatch.setattr(run, "_fit", watched)
    config = two_stages()
    report = run.train(config)
    first, second = seen
    assert second[0].learning_rate == first[0].learning_rate / 2
    assert all("Say " in t for t in first[2])
    replayed = [t for t in second[2] if "Say " in t]
    assert 0.1 < len(replayed) / len(second[2]) < 0.2
    assert [s["steps"] for s in report.document["stages"]] == [4]
    assert report.document["general"] is not None
    assert (config.out / "adapter_model.safetensors").is_file()
    assert not (config.out / "checkpoints").exists()


class _KillError(BaseException):
    """Stands for kill -9."""


@pytest.mark.slow
def test_two_killed_stages_equal_two_uninterrupted_ones(
    two_stages: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = two_stages(out=tmp_path / "whole", measure=0)
    run.train(uninterrupted)
    wanted = load_file(uninterrupted.out / "adapter_model.safetensors")
    for dies_in in (1, 2):
        killed = two_stages(out=tmp_path / f"killed{dies_in}", measure=0)
        with monkeypatch.context() as patch:
            _die_in_stage(patch, dies_in)
            with pytest.raises(_KillError):
                run.train(killed)
        with pytest.raises(CheckpointError, match="other settings"):
            run.train(two_stages(out=killed.out, measure=0, alpha=4))
        run.train(killed)
        got = load_file(killed.out / "adapter_model.safetensors")
        assert got.keys() == wanted.keys() and all((got[n] == wanted[n]).all() for n in got), dies_in


def _die_in_stage(patch: pytest.MonkeyPatch, dies_in: int) -> None:
    """Let a training die after three steps of its first or second stage."""
    stages = []
    true_step, true_fit = loop.LoraTrainer.training_step, run._fit

    def dying(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if len(stages) == dies_in and trainer.state.global_step == 3:
            raise _KillError
        return true_step(trainer, *args, **kwargs)

    patch.setattr(run, "_fit", lambda *a: stages.append(1) or true_fit(*a))
    patch.setattr(loop.LoraTrainer, "training_step", dying)


def test_calls_that_the_server_would_not_read_are_counted(configure: Configure, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(configure().base, base)
    template = (base / "chat_template.jinja").read_text()
    data = tmp_path / "calls.jsonl"
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    rows = [{"role": "user", "content": "Do."}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    data.write_text(json.dumps({"messages": rows}))
    config = configure(base=base, data=data, held_out_share=0.0)
    assert prepare(config, load_renderer(config)).unread_call_turns == 0
    (base / "chat_template.jinja").write_text(template.replace('"arguments": ', '"parameters": '))
    other = prepare(config, load_renderer(config))
    assert other.unread_call_turns == 1
    assert any("hermes parser does not read" in w for w in other.warnings(config))


def test_the_second_stage_replays_chats_of_any_form(
    two_stages: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    more = tmp_path / "general.json.gz"
    more.write_bytes(gzip.compress(json.dumps([{"question": "Eh?", "answer": "Yes."}]).encode()))
    config = two_stages(replay=more)
    (config.out / "checkpoints" / "stage-1").mkdir(parents=True)
    second = second_stage(config)
    assert second.replay is not None and second.data == (config.then,)
    replayed = read_conversations(second.replay)
    assert [m["content"] for m in replayed[-1].messages] == ["Eh?", "Yes."]
    assert (
        len(replayed) == len(read_conversations(config.data[0])) - len(read_conversations(second.general)) + 1
    )


def test_weights_say_how_often_the_samples_of_a_file_are_used(configure: Configure, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [f"One {i}?" for i in range(20)], "1.")
    two = write(tmp_path / "two.jsonl", [f"Two {i}?" for i in range(10)], "2.")
    config = configure(data=(one, two), data_weights=(0.5, 2.3), held_out_share=0.0)
    renderer = load_renderer(config)
    prepared = prepare(config, renderer)
    texts = [renderer.tokenizer.decode(s.ids) for s in prepared.samples]
    ones, twos = ([t for t in texts if word in t] for word in ("One", "Two"))
    assert (len(ones), len(set(ones)), len(twos), len(set(twos))) == (10, 10, 23, 10)
    assert prepared.counts()["files"] == [
        {"name": "one.jsonl", "weight": 0.5, "chats": 20, "samples": 10},
        {"name": "two.jsonl", "weight": 2.3, "chats": 10, "samples": 23},
    ]
    assert prepare(config, renderer).samples == prepared.samples
    assert configure(data=one).data == (one,)
    assert len({configure(data=d).data_digest() for d in (one, two, (one, two), (two, one))}) == 4
    with pytest.raises(ValueError, match="data_weights has 1 numbers for 2 files"):
        configure(data=(one, two), data_weights=(1.0,))


def test_unusable_lines_refuse_a_training_or_are_left_out_and_counted(
    configure: Configure, tmp_path: Path
) -> None:
    path = write(tmp_path / "some.jsonl", [f"One {i}?" for i in range(8)], "1.")
    answer = '{"prompt": "x", "completion": "an end <|im_end|> in the middle"}'
    path.write_text(f'{path.read_text()}{{"prompt": 3, "completion": "x"}}\n{answer}\n')
    config = configure(data=path, held_out_share=0.0)
    renderer = load_renderer(config)
    with pytest.raises(
        DataError, match=r"some.jsonl: 1 line cannot be used:\n  Line 9: `prompt` must be text"
    ):
        prepare(config, renderer)
    skipping = configure(data=path, held_out_share=0.0, skip_unusable=True)
    prepared = prepare(skipping, renderer)
    assert (len(prepared.samples), prepared.counts()["unusable_lines"]) == (8, 2)
    (told,) = [w for w in prepared.warnings(skipping) if "cannot be used" in w]
    assert told.startswith("2 lines cannot be used") and "some.jsonl: Line 9" in told
    path.write_text("{\n{]\n")
    with pytest.raises(DataError, match="cannot be used"):
        prepare(skipping, renderer)
