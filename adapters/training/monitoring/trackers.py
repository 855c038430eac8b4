"""transformers' TensorBoard, Weights & Biases and MLflow callbacks, for a training that resumes and stays offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback
from transformers.integrations.integration_utils import WandbLogModel

from adapters.training.config import TrainingConfig
from adapters.training.errors import IntegrationError
from adapters.training.evaluation.metrics import Evaluation

_SAMPLED = 16  # answers of an evaluation that the trackers show


class TensorBoard(TensorBoardCallback):
    """Writes events into ``folder``; events of steps that a resumed training takes again are hidden."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Open the event file. transformers would also log its arguments, with paths of this machine."""
        self.tb_writer = self._SummaryWriter(str(self._folder), purge_step=state.global_step + 1)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        """Write the sampled answers as a table."""
        if rows := _sampled(metrics["evaluation"]):
            head = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
            lines = [f"| {' | '.join(_cell(value) for value in row.values())} |" for row in rows]
            self.tb_writer.add_text("eval/generations", "\n".join([*head, *lines]), state.global_step)


class Wandb(WandbCallback):
    """Logs to a W&B project: into ``out/wandb`` for ``wandb sync``, or online during the training."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self._log_model = (
            WandbLogModel.FALSE
        )  # weights never leave the machine, whatever WANDB_LOG_MODEL says
        self._config = config

    def setup(self, args: Any, state: TrainerState, model: Any, **_: Any) -> None:
        """Start the run. transformers would send all its arguments, with paths of this machine."""
        self._initialized = True
        self._wandb.init(
            project=self._config.wandb,
            name=self._config.out.name,
            config=self._config.hyperparameters(),
            dir=str(self._config.out),
            mode="online" if self._config.wandb_online else "offline",
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        self._wandb.define_metric("train/global_step")
        self._wandb.define_metric("*", step_metric="train/global_step", step_sync=True)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        """Log the sampled answers as a table."""
        if rows := _sampled(metrics["evaluation"]):
            table = self._wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._wandb.log({"eval/generations": table, "train/global_step": state.global_step})

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Finish the run, which transformers leaves open; harmless when called twice."""
        super().on_train_end(args, state, control, **kwargs)
        self._wandb.finish()


class MLflow(MLflowCallback):
    """Logs to an MLflow experiment: of the tracking server that is set, otherwise in ``mlflow.db`` in ``out``."""

    _auto_end_run = False  # transformers' destructor reads it, also where mlflow is missing

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self._config = config
        self._is_own = False  # whether it is in `out`

    def setup(self, args: Any, state: TrainerState, model: Any, **_: Any) -> None:
        """Start the run. transformers would log all its arguments, with paths of this machine."""
        self._initialized, self._auto_end_run, self._async_log, self._log_artifacts = True, True, False, False
        out, name = self._config.out.resolve(), self._config.mlflow
        self._is_own = not self._ml_flow.is_tracking_uri_set()
        if self._is_own:
            self._ml_flow.set_tracking_uri(f"sqlite:///{out / 'mlflow.db'}")
            if self._ml_flow.get_experiment_by_name(name) is None:
                self._ml_flow.create_experiment(name, artifact_location=(out / "mlartifacts").as_uri())
        self._ml_flow.set_experiment(name)
        self._ml_flow.start_run(run_name=out.name)
        self._ml_flow.log_params(self._config.hyperparameters())

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any, **_: Any) -> None:
        """Log the sampled answers as a table."""
        if rows := _sampled(metrics["evaluation"]):
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            self._ml_flow.log_table(columns, f"eval/generations-{state.global_step}.json")

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """End the run; harmless when called twice."""
        super().on_train_end(args, state, control, **kwargs)
        if self._is_own:
            self._ml_flow.set_tracking_uri("")  # another training of this process has another folder


def trackers(config: TrainingConfig) -> list[TrainerCallback]:
    """The trackers that ``config`` names.

    Raises:
        IntegrationError: its package is not installed.
    """
    found: list[TrainerCallback] = []
    if config.tensorboard:
        found.append(_create("tensorboard", "--tensorboard", lambda: TensorBoard(config.out / "tensorboard")))
    if config.wandb:
        found.append(_create("wandb", "--wandb", lambda: Wandb(config)))
    if config.mlflow:
        found.append(_create("mlflow", "--mlflow", lambda: MLflow(config)))
    return found


def _sampled(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The first answers of an evaluation, as rows of a table."""
    return [generation.as_dict() for generation in evaluation.generations[:_SAMPLED]]


def _cell(value: Any) -> str:
    """A value in a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", "<br>")


def _create(package: str, flag: str, create: Callable[[], TrainerCallback]) -> TrainerCallback:
    try:
        return create()
    except (RuntimeError, ImportError) as error:  # transformers raises RuntimeError for a missing package
        raise IntegrationError(
            f"{flag} needs the package {package}. Run `pip install {package}`, or leave {flag} out: log.jsonl has "
            "the same figures."
        ) from error
