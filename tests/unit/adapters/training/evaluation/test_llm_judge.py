"""The judge: a real HTTP endpoint in OpenAI's format, called by the official client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_endpoint import JudgeDouble, judge_endpoint

from adapters.training.config import TrainingConfig
from adapters.training.data.jsonl import read_steps
from adapters.training.errors import IntegrationError
from adapters.training.evaluation.llm_judge import AnswerPair, Judge, compare
from adapters.training.evaluation.pairwise import check_judge
from adapters.training.training_run import train


def right_one(wanted: str, a: str, b: str) -> str:
    better = {(True, False): "A", (False, True): "B"}.get((a == wanted, b == wanted), "tie")
    return f"A thought about A and B.\nVerdict: {better}"


@pytest.fixture
def judge() -> Iterator[JudgeDouble]:
    with judge_endpoint(right_one) as double:
        yield double


PAIRS = [
    AnswerPair("user: one", "1", "1", "2"),  # won
    AnswerPair("user: two", "1", "2", "1"),  # lost
    AnswerPair("user: three", "1", "2", "3"),  # both wrong
    AnswerPair("user: four", "1", "1", "1"),  # the same
]


def ask(double: JudgeDouble) -> dict[str, Any]:
    with Judge(double.url, "referee", "secret") as one:
        return compare(one.prefer, PAIRS, "old").as_dict()


def test_every_pair_is_asked_about_in_both_orders(judge: JudgeDouble) -> None:
    assert ask(judge) == {
        "against": "old", "wins": 1, "losses": 1, "ties": 2, "same": 1, "swayed": 0, "unclear": 0, "win_rate": 0.5,
    }  # fmt: skip
    assert len(judge.asked) == 6
    assert {body["model"] for body in judge.asked} == {"referee"}
    assert {body["temperature"] for body in judge.asked} == {0.0}
    assert judge.keys == {"Bearer secret"}


def test_a_judge_that_always_prefers_the_first_decides_nothing(judge: JudgeDouble) -> None:
    judge.opinion = lambda wanted, a, b: "Verdict: A"
    found = ask(judge)
    assert (found["wins"], found["losses"], found["ties"], found["swayed"]) == (0, 0, 4, 3)


def test_a_reply_without_a_verdict_is_a_tie(judge: JudgeDouble) -> None:
    judge.opinion = lambda wanted, a, b: "A is nice, and so is B."
    found = ask(judge)
    assert (found["ties"], found["unclear"]) == (4, 6)


@pytest.mark.parametrize("said", ["**Verdict: B**", "verdict - b", "Verdict: A? No.\nVerdict: B"])
def test_verdicts_are_found_in_any_markup(judge: JudgeDouble, said: str) -> None:
    judge.opinion = lambda wanted, a, b: said
    with Judge(judge.url, "m", "") as one:
        assert one.prefer("user: x", "w", "a", "b") == "second"


@pytest.mark.slow
def test_a_training_is_judged_against_the_base_and_the_version_before(
    configure: Callable[..., TrainingConfig], judge: JudgeDouble, tmp_path: Path
) -> None:
    # This judge always prefers the new answers; it recognises them by their length.
    judge.opinion = lambda wanted, a, b: "Verdict: " + ("A" if len(a) < len(b) else "B")
    first = configure(out=tmp_path / "first", judge=judge.url, judge_model="referee", judge_key="secret")
    record = train(first).document["judge"]
    assert (record["model"], record["against"]) == ("referee", "base")
    assert record["wins"] + record["losses"] + record["ties"] == 4
    assert "secret" not in (first.out / "training.json").read_text()
    assert "secret" not in repr(first)

    # The same weights again: all answers are equal, so the judge is not asked.
    judge.asked.clear()
    again = configure(out=tmp_path / "again", judge=judge.url, judge_model="referee", judge_against=first.out)
    record = train(again).document["judge"]
    assert (record["against"], record["same"], record["ties"]) == ("first", 4, 4)
    # The check before the training, and both orders of what an evaluation answered otherwise than the one before.
    changes = [row["against_previous"] for row in read_steps(again.out / "evaluations.jsonl")]
    assert len(judge.asked) == 1 + 2 * sum(change["changed"] for change in changes)
    assert len(changes) == 2 and all(0 <= change["win_rate"] <= 1 for change in changes)
    assert "against first, in both orders: 0 wins, 4 ties" in (again.out / "README.md").read_text()


def test_a_judge_that_does_not_answer_stops_before_the_training(
    configure: Callable[..., TrainingConfig], judge: JudgeDouble
) -> None:
    judge.status = 401
    config = configure(judge=judge.url, judge_model="referee")
    with pytest.raises(IntegrationError, match="The judge referee does not answer"):
        train(config)
    assert not config.out.exists()


@pytest.mark.slow
def test_a_judge_that_fails_later_does_not_cost_the_training(
    configure: Callable[..., TrainingConfig], judge: JudgeDouble
) -> None:
    def failing(wanted: str, a: str, b: str) -> str:
        judge.status = 400
        return "Verdict: tie"

    judge.opinion = failing
    config = configure(judge=judge.url, judge_model="referee")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.training.training_run.check_judge", lambda config: None)
        record = train(config).document["judge"]
    assert "error" in record and record["against"] == "base"
    assert (config.out / "adapter_model.safetensors").is_file()


def test_what_is_no_adapter_is_not_judged_against(
    configure: Callable[..., TrainingConfig], judge: JudgeDouble, tmp_path: Path
) -> None:
    with pytest.raises(IntegrationError, match=r"has no adapter_model\.safetensors"):
        check_judge(configure(judge=judge.url, judge_model="m", judge_against=tmp_path))
    with pytest.raises(ValueError, match="belong together"):
        configure(judge=judge.url)
