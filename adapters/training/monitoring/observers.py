"""Everything that looks on while a training runs, made from its configuration, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from rich.console import Console
from rich.table import Table

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation, Renderer
from adapters.training.data.reader import read_conversations
from adapters.training.evaluation.evaluator import Evaluations, Probe
from adapters.training.evaluation.pairwise import judged
from adapters.training.export.model_card import MEANING, shown
from adapters.training.loop.callback import Schedule, Sink, Watch
from adapters.training.monitoring.anomalies import Health, HealthWatch
from adapters.training.monitoring.plots import draw
from adapters.training.monitoring.progress import ProgressBar, StepLog
from adapters.training.monitoring.trackers import TensorBoard, Wandb

#: Forgetting above this share of right answers is worth a word.
_FORGOTTEN = 0.05


@dataclass(frozen=True, slots=True)
class Observation:
    """The watchers of one training. ``watch`` goes to Trainer; ``end`` must be called however it ends."""

    config: TrainingConfig
    console: Console
    watch: Watch
    health: HealthWatch
    evaluations: Evaluations | None
    held_out: Probe | None
    general: Probe | None

    def end(self) -> None:
        """Close everything and draw the plots."""
        self.watch.end()
        draw(self.config.out, self.config.max_grad_norm)

    def keep(self, model: Any, last_step: int) -> int:
        """Put the weights into ``model`` that are to be written; the step they are of.

        Raises:
            CheckpointError: the best ones are gone.
        """
        best = self.evaluations.best_step() if self.evaluations else None
        if self.evaluations is None or best is None or best == last_step or self.config.keep == "last":
            return last_step
        self.evaluations.restore_best(model)
        self.console.print(f"the evaluation after step {best} was the best: its weights are written")
        return best

    def findings(self, model: Any) -> dict[str, Any]:
        """``scores``, ``general``, ``judge`` and ``health`` for ``training.json``."""
        found: dict[str, Any] = {"scores": None, "general": None, "judge": None}
        if self.held_out:
            base, adapter = self.held_out.beside(model)
            found["scores"] = {"base": base.as_dict(), "adapter": adapter.as_dict()}
            self.console.print(_table(f"{len(self.held_out.turns)} held-out turns", found["scores"]))
        if self.general:
            found["general"] = self._forgotten(self.general, model)
        if self.held_out and self.config.judge:
            found["judge"] = judged(model, self.held_out, self.config)
        return found | {"health": self.health.record()}

    def _forgotten(self, general: Probe, model: Any) -> dict[str, Any]:
        base, adapter = (measured.as_dict() for measured in general.beside(model))
        forgotten = round(base["exact"] - adapter["exact"], 4)
        self.console.print(_table(f"{len(general.turns)} general turns", {"base": base, "adapter": adapter}))
        if forgotten > _FORGOTTEN:
            self.console.print(
                f"[yellow]of the general chats the base answers {base['exact']:.0%} right and the adapter "
                f"{adapter['exact']:.0%}: it forgot. Mix general chats in with --replay, or lower rank or epochs."
            )
        return {"base": base, "adapter": adapter, "forgotten": forgotten}


def _table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", "base", "adapter"):
        table.add_column(column, justify="right" if column else "left")
    for key, meaning in MEANING.items():
        if scores["adapter"].get(key) is not None:
            table.add_row(meaning, *(shown(key, scores[who].get(key)) for who in ("base", "adapter")))
    return table


def observe(
    config: TrainingConfig,
    renderer: Renderer,
    held_out: Sequence[Conversation],
    pad_id: int,
    console: Console,
) -> Observation:
    """Make the watchers.

    Raises:
        WatchingError: a tracker that was asked for is not installed.
        DataError: the general chats cannot be used.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    health = HealthWatch(
        console, Health(learning_rate=config.learning_rate, max_grad_norm=config.max_grad_norm)
    )
    sinks: list[Sink] = [StepLog(config.out), ProgressBar(console), health, *_trackers(config)]

    # A sharded model cannot answer: every process has a part of each matrix only.
    sharded = PartialState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if sharded and config.measure:
        console.print("[yellow]the model is sharded: nothing is evaluated, and the last weights are written")

    def probe(chats: Sequence[Conversation]) -> Probe | None:
        limit = 0 if sharded else config.measure
        return Probe.of(renderer, chats, limit, pad_id, config.max_new_tokens)

    general = probe(read_conversations(config.general)) if config.general else None
    looked_at = probe(held_out)
    evaluations = None
    if looked_at:
        evaluations = Evaluations(
            looked_at,
            general,
            folder=config.out,
            answered_turns=config.evaluate_turns,
            best_by=config.best_by,
            patience=config.patience,
        )
    watch = Watch(sinks, Schedule(config.evaluate_every), evaluations)
    return Observation(config, console, watch, health, evaluations, looked_at, general)


def _trackers(config: TrainingConfig) -> list[Sink]:
    found: list[Sink] = []
    if config.tensorboard:
        found.append(TensorBoard(config.out / "tensorboard"))
    if config.wandb:
        found.append(
            Wandb(
                config.out,
                project=config.wandb,
                online=config.wandb_online,
                name=config.out.name,
                config=config.hyperparameters(),
            )
        )
    return found
