"""Which weights are kept, when a training stops early, and that evaluating changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adapters.artifact.digests import file_digest
from adapters.training.config import TrainingConfig
from adapters.training.data.jsonl import append_row, drop_steps_after, read_steps
from adapters.training.errors import CheckpointError, DivergedError
from adapters.training.evaluation.evaluator import Evaluator
from adapters.training.evaluation.generations import Changes, Generation, Generations
from adapters.training.evaluation.metrics import Evaluation, Score
from adapters.training.loop.trainer import LoraTrainer
from adapters.training.training_run import train

WEIGHTS = "adapter_model.safetensors"


def is_bare(model: PeftModel) -> bool:
    """Whether its adapter is switched off."""
    return model.get_model_status().enabled is False


class FakeEvaluationSet:
    """An evaluation set with given losses and exact shares."""

    def __init__(self, losses: Sequence[float], exact: Sequence[float] = ()) -> None:
        self._losses = iter(losses)
        self._exact = iter(exact)

    def loss(self, model: Any) -> float:
        return 9.0 if is_bare(model) else next(self._losses)

    def generations(self, model: Any, limit: int) -> Generations | None:
        if is_bare(model):
            return None
        exact = next(self._exact, None)
        return None if exact is None else Generations(Score(4, exact, 0, None, 0, None, 1.0, 0.0), ())


@pytest.fixture
def model(tiny_base: Path) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


def mark(model: PeftModel, value: float) -> None:
    """Weights that encode their step."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(value)


def marked(model: PeftModel) -> float:
    return next(float(p.detach().flatten()[0]) for n, p in model.named_parameters() if "lora_B" in n)


def evaluator(
    folder: Path, held_out: FakeEvaluationSet, *, best_by: str = "loss", patience: int = 0
) -> Evaluator:
    return Evaluator(
        held_out,  # type: ignore[arg-type]
        None,
        folder=folder,
        answered_turns=4,
        best_by=best_by,
        patience=patience,
    )


def walk(
    folder: Path, model: PeftModel, held_out: FakeEvaluationSet, steps: int, **options: Any
) -> list[bool]:
    """Evaluate steps 1, 2, … like a training; whether patience was used up at each."""
    folder.mkdir(exist_ok=True)
    stops = []
    evaluate = evaluator(folder, held_out, **options)
    for step in range(1, steps + 1):
        mark(model, float(step))
        evaluation, enough = evaluate(model, step)
        append_row(folder / "evaluations.jsonl", evaluation.as_dict())
        stops.append(enough)
    return stops


@pytest.mark.parametrize(
    ("losses", "exact", "best_by", "best"),
    [
        ([3.0, 1.0, 2.0], [], "loss", 2),
        ([3.0, 1.0, 1.0], [], "loss", 2),  # the first of equals
        ([3.0, 1.0, 2.0], [0.1, 0.5, 0.6], "exact", 3),
        ([3.0, 1.0, 2.0], [0.5, 0.5, 0.5], "exact", 2),  # the loss decides between equals
    ],
)
def test_the_best_weights_come_back(
    tmp_path: Path, model: PeftModel, losses: list, exact: list, best_by: str, best: int
) -> None:
    walk(tmp_path, model, FakeEvaluationSet(losses, exact), len(losses), best_by=best_by)
    later = evaluator(tmp_path, FakeEvaluationSet([]), best_by=best_by)
    assert later.best_step() == best
    later.restore_best(model)
    assert marked(model) == float(best)


@pytest.mark.parametrize(
    ("patience", "stops"),
    [(0, [False] * 6), (2, [False, False, False, True, True, True]), (4, [False] * 5 + [True])],
)
def test_patience(tmp_path: Path, model: PeftModel, patience: int, stops: list[bool]) -> None:
    assert walk(tmp_path, model, FakeEvaluationSet([3, 1, 2, 2, 2, 2]), 6, patience=patience) == stops


@pytest.mark.slow
def test_every_evaluation_has_the_figures_of_the_base(
    configure: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    config = configure(evaluate_every=3)
    report = train(config)
    rows = read_steps(config.out / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [3, 6]
    base = report.document["scores"]["base"]
    for row in rows:
        assert row["base"]["held_out_loss"] == pytest.approx(base["loss"], abs=1e-4)
        assert row["base"]["exact"] == base["exact"] and row["base"]["stops"] == base["stops"]
        assert row["held_out_loss"] < row["base"]["held_out_loss"]


def test_patience_begins_anew_after_a_better_one(tmp_path: Path, model: PeftModel) -> None:
    said = walk(tmp_path, model, FakeEvaluationSet([3, 2, 2.5, 1, 1.5, 1.6]), 6, patience=2)
    assert said == [False] * 5 + [True]


def test_best_weights_of_another_step_are_not_taken(tmp_path: Path, model: PeftModel) -> None:
    walk(tmp_path, model, FakeEvaluationSet([3.0, 1.0, 2.0]), 3)
    rows = read_steps(tmp_path / "evaluations.jsonl")[:1]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CheckpointError, match="not of step 1"):
        evaluator(tmp_path, FakeEvaluationSet([])).restore_best(model)


@pytest.mark.slow
def test_evaluating_does_not_change_what_is_trained(
    configure: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    often = configure(out=tmp_path / "often", evaluate_every=1, keep="last", measure=4)
    never = configure(out=tmp_path / "never", measure=0, keep="last")
    train(often)
    train(never)
    assert file_digest(often.out / WEIGHTS) == file_digest(never.out / WEIGHTS)
    assert [row["step"] for row in read_steps(often.out / "evaluations.jsonl")] == [1, 2, 3, 4, 5, 6]
    # Without answers the held-out loss is still computed, over all held-out turns.
    *_, row = read_steps(never.out / "evaluations.jsonl")
    assert row["held_out_loss"] == read_steps(often.out / "evaluations.jsonl")[-1]["held_out_loss"]
    assert "exact" not in row and "exact" not in row["base"]
    scores = json.loads((never.out / "training.json").read_text())["scores"]
    assert scores["adapter"]["loss"] == pytest.approx(row["held_out_loss"], abs=1e-4)
    assert scores["base"]["loss"] > 0 and "exact" not in scores["base"]


@pytest.mark.slow
def test_a_training_that_gets_worse_keeps_its_best_and_stops(
    configure: Callable[..., TrainingConfig], chats: Path, tmp_path: Path
) -> None:
    """It memorises one answer at a rate that makes all others less likely."""
    one = tmp_path / "one.jsonl"
    one.write_text((chats.read_text().splitlines()[0] + "\n") * 8)
    # The held-out question expects another answer than the one that is learned.
    held_out = tmp_path / "other.jsonl"
    other = [{"role": "user", "content": "Say 0."}, {"role": "assistant", "content": "Never, my friend"}]
    held_out.write_text(json.dumps({"messages": other}) + "\n")
    config = configure(
        data=one, held_out=held_out, max_steps=40, learning_rate=5e-2, evaluate_every=2, patience=3,
        warmup_share=0.0,
    )  # fmt: skip
    report = train(config)
    losses = {row["step"]: row["held_out_loss"] for row in read_steps(config.out / "evaluations.jsonl")}
    best = min(losses, key=losses.__getitem__)
    assert report.steps == max(losses) == best + 6 < 40
    assert report.document["kept_step"] == best
    assert report.document["scores"]["adapter"]["loss"] == pytest.approx(losses[best], abs=1e-4)
    assert load_file(config.out / WEIGHTS)


@pytest.mark.slow
def test_a_broken_step_leaves_the_weights_before_it(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    true_loss = LoraTrainer.compute_loss

    def breaking(self: LoraTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = true_loss(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(LoraTrainer, "compute_loss", breaking)
    config = configure(checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"Step 4: .* in checkpoints/last-good; --start-from takes them"):
        train(config)
    kept = config.out / "checkpoints" / "last-good"
    # The checkpoint of step 3 has the same weights.
    assert file_digest(kept / WEIGHTS) == file_digest(kept.with_name("checkpoint-3") / WEIGHTS)
    assert (config.out / "loss.png").is_file()
    assert not (config.out / WEIGHTS).exists()
    monkeypatch.undo()
    assert train(configure(out=config.out.with_name("again"), start_from=kept)).steps == 6


def test_an_interrupted_training_decides_as_an_uninterrupted_one(tmp_path: Path, model: PeftModel) -> None:
    walk(tmp_path / "a", model, FakeEvaluationSet([3, 1, 2]), 3, patience=3)
    log = tmp_path / "a" / "evaluations.jsonl"
    evaluate = evaluator(tmp_path / "a", FakeEvaluationSet([2, 2]), patience=3)
    drop_steps_after(log, 2)  # the checkpoint is of step 2
    mark(model, 3.0)
    assert evaluate(model, 3)[1] is False
    append_row(log, evaluate(model, 4)[0].as_dict())
    assert evaluate.best_step() == 2
    evaluate.restore_best(model)
    assert marked(model) == 2.0


def test_answers_are_compared_with_those_of_the_evaluation_before() -> None:
    def said(*answers: tuple[str, bool]) -> list[Generation]:
        return [Generation("user: x", "a", answer, right) for answer, right in answers]

    changes = Changes.between(
        said(("b", False), ("a", True), ("c", False), ("d", False)),
        said(("a", True), ("e", False), ("c", False), ("f", False)),
    )
    assert changes == Changes(changed=3, newly_right=1, newly_wrong=1)
    assert changes.summary() == "3 answers changed (1 newly right, 1 newly wrong)"
    assert Evaluation(1, 0.5, changes=changes).as_dict()["against_previous"] == {
        "changed": 3, "newly_right": 1, "newly_wrong": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_every_evaluation_keeps_its_answers(configure: Callable[..., TrainingConfig]) -> None:
    config = configure(evaluate_every=2, evaluate_turns=3, measure=3)
    train(config)
    evaluations = read_steps(config.out / "evaluations.jsonl")
    answers = read_steps(config.out / "generations.jsonl")
    assert [row["step"] for row in answers] == [2] * 3 + [4] * 3 + [6] * 3
    assert all(row["prompt"].startswith("user: Say") and row["expected"].endswith("!") for row in answers)
    first, last = ([r["answer"] for r in answers if r["step"] == step] for step in (4, 6))
    changed = sum(one != other for one, other in zip(first, last, strict=True))
    assert evaluations[-1]["against_previous"]["changed"] == changed
    assert "changed" in evaluations[0]["against_previous"], "the first one is compared with the base"
