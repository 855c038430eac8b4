"""The configuration of a training: one frozen record; the text under a field is its `--help`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from adapters.artifact.digests import file_digest
from adapters.training.config_fields import NO_EFFECT, DataFiles, NoEffect, Share

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# A fingerprint has the digests of these files, not their paths.
_FILES = ("held_out", "replay", "then")
_PATHS = ("base", "out", "start_from", "data", "preferences", *_FILES)
# The default with --preferences: the loss depends on sums over whole answers, so steps must be small.
_PREFERENCE_RATE = 5e-5
_NO_PREFERENCES = ("held_out", "replay", "augment", "then", "data_weights")


# A dataclass and not a BaseModel: `dataclasses.replace` checks the changed copy, `model_copy` does not.
# Errors hide their input because it contains `judge_key`.
@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(use_attribute_docstrings=True, hide_input_in_errors=True)
)
class TrainingConfig:
    """Everything that a training depends on.

    Raises:
        pydantic.ValidationError: a ValueError; a field has an impossible value, or two fields contradict each other.
    """

    base: Path
    """Folder of the base model that the server serves."""
    out: Path
    """Folder for the adapter and the checkpoints."""
    data: DataFiles = ()
    """File of chats, JSONL (also .gz) or a JSON array: OpenAI messages, prompt/completion, ShareGPT, Alpaca, xLAM or
    ToolACE rows. May be given several times."""
    preferences: Path | None = None
    """Instead of --data: file of better and worse answers to the same prompts (DPO); rows with `chosen` and
    `rejected`, or what `loragate feedback export` writes."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """With --preferences: strength that keeps the adapter near the one it starts from."""

    # Data.
    data_weights: tuple[Annotated[float, Field(gt=0, le=100)], ...] = ()
    """Comma-separated numbers, one for each --data: how many times an epoch uses the samples of that file;
    0.5 is half of them. Default: each once."""
    skip_unusable: NoEffect[bool] = False
    """Train without the lines that cannot be used, and count them. Default: list them, and train nothing."""
    held_out: Path | None = None
    """JSONL file for evaluation. Default: a part of --data is held out."""
    held_out_share: Share = 0.05
    """Share of --data that is held out, chosen by a hash of the first question."""
    max_length_tokens: int = 2048
    """Maximum length in tokens; turns that end beyond it are left out completely."""
    end_token: str = "<|im_end|>"  # noqa: S105  (no password)
    """Token that ends a turn in the base's chat template."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the chat template, as a JSON object; the server must use the same."""
    replay: Path | None = None
    """JSONL file of general chats that are mixed in to reduce forgetting."""
    replay_ratio: Share = 0.15
    """Share of the samples that come from --replay."""
    augment: bool = False
    """Rephrase the questions of half of the chats; the answers do not change."""
    then: Path | None = None
    """JSONL file for a second stage of the same adapter, for example with function calls."""
    then_rate: Annotated[float, Field(gt=0)] = 0.5
    """Learning rate of the second stage, as a share of the first stage's."""
    start_from: Path | None = None
    """Adapter folder to continue from, instead of a new adapter."""

    # The adapter.
    rank: int = 16
    """LoRA rank; at most the server's --max-lora-rank."""
    alpha: int = 32
    """LoRA alpha; the update is scaled by alpha / rank."""
    dropout: Share = 0.0
    """LoRA dropout."""
    targets: tuple[str, ...] = PROJECTIONS
    """Comma-separated projections that get an adapter."""
    rslora: bool = False
    """Scale the update by alpha / sqrt(rank) instead."""
    lora_options: dict[str, Any] = Field(default_factory=dict)
    """Further fields of peft's LoraConfig, as a JSON object; options that cannot be served are refused."""
    max_lora_rank: int = 16
    """The server's --max-lora-rank; a higher rank is refused."""

    # The loop.
    epochs: float = 3.0
    """Number of passes over all samples."""
    max_steps: int = -1
    """Stop after this number of optimizer steps; -1: --epochs decides."""
    batch_samples: Annotated[int, Field(ge=1)] = 16
    """Number of samples in one optimizer step."""
    micro_batch_samples: Annotated[int, Field(ge=1)] = 1
    """Number of samples in one forward pass; 1 needs no padding and is fastest on a CPU."""
    packing: Literal["auto", "on", "off", "prefix"] = "auto"
    """Join the samples of a forward pass into one row. prefix: and compute once what they begin with, such as the
    same functions. auto: on with a GPU, otherwise off."""
    learning_rate: float = 2e-4
    """Peak learning rate; a cosine schedule decays it to zero. With --preferences the default is 5e-5."""
    warmup_share: float = 0.05
    """Share of the steps in which the learning rate rises to its peak."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are clipped."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """Optimizer; the 8-bit ones need a GPU."""
    seed: int = 0
    """Seed of the adapter's initial weights and of the order of samples."""

    # Precision and memory.
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type. auto: bfloat16 where the hardware computes in it. float16 is not offered: gradients overflow."""
    qlora: bool = False
    """Keep the frozen base in 4 bits (NF4, bitsandbytes) during training."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, with much less memory."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Implementation of attention. auto: sdpa."""
    over_memory: NoEffect[bool] = False
    """Start even if the memory plan does not fit."""

    # Checkpoints.
    checkpoint_every: NoEffect[int] = 0
    """Number of optimizer steps between checkpoints; 0: no checkpoints."""
    keep_checkpoints: NoEffect[int] = 2
    """Number of newest checkpoints to keep, at least 2."""

    # Evaluation, which decides what weights are written.
    max_new_tokens: int = 256
    """Maximum length of an answer in an evaluation, in tokens."""
    measure: int = 200
    """Maximum number of held-out turns that are answered and compared at the end; 0: no turn is answered, and
    evaluations compute the loss only."""
    evaluate_every: int = 0
    """Number of steps between evaluations; 0: once per epoch, -1: only at the end."""
    evaluate_turns: int = 32
    """Number of held-out turns that each evaluation answers; 0: it computes the loss only."""
    keep: Literal["best", "last"] = "best"
    """Weights to write: of the best evaluation, or of the last step."""
    best_by: Literal["loss", "exact"] = "loss"
    """Score that decides what is best: held-out loss, or exact answers."""
    patience: int = 0
    """Stop after this number of evaluations without improvement; 0: never."""

    # Monitoring.
    general: NoEffect[Path | None] = None
    """JSONL file of general chats that are never trained on; it shows what the model forgets."""
    tensorboard: NoEffect[bool] = False
    """Write TensorBoard events to the folder `tensorboard` in --out."""
    wandb: NoEffect[str] = ""
    """Weights & Biases project to log to; the run stays on this machine."""
    wandb_online: NoEffect[bool] = False
    """Upload the W&B run during the training."""
    mlflow: NoEffect[str] = ""
    """MLflow experiment to log to: of the server that MLFLOW_TRACKING_URI names, otherwise in --out."""
    judge: NoEffect[str] = ""
    """URL of an OpenAI-compatible endpoint whose model compares the answers."""
    judge_model: NoEffect[str] = ""
    """Name of the judge's model."""
    judge_key: NoEffect[str] = Field(default="", repr=False)
    """API key for --judge."""
    judge_against: NoEffect[Path | None] = None
    """Adapter folder of the previous version to compare with. Default: the base without an adapter."""

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, given: Any) -> Any:
        if isinstance(given, ArgsKwargs) and given.kwargs and given.kwargs.get("preferences"):
            return ArgsKwargs(given.args, {"learning_rate": _PREFERENCE_RATE} | given.kwargs)
        return given

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if bool(self.judge) != bool(self.judge_model):
            raise ValueError("judge and judge_model belong together; give both or neither.")
        if self.batch_samples % self.micro_batch_samples:
            raise ValueError(
                f"batch_samples {self.batch_samples} is not a multiple of micro_batch_samples "
                f"{self.micro_batch_samples}."
            )
        if not self.sources or (self.preferences and self.data):
            raise ValueError("give data (chats) or preferences (better and worse answers), one of them.")
        wrong = [name for name in _NO_PREFERENCES if getattr(self, name)] if self.preferences else []
        if wrong:
            raise ValueError(f"{', '.join(wrong)} cannot be used with preferences. Leave it out.")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(
                f"data_weights has {len(self.data_weights)} numbers for {len(self.data)} files; give one for each."
            )
        return self

    @property
    def data_names(self) -> str:
        """The names of the data files, for people."""
        return ", ".join(path.name for path in self.sources)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that are trained on."""
        return (self.preferences,) if self.preferences else self.data

    def data_digest(self) -> str:
        """The digest of the data; of several files, that of their digests in their order."""
        digests = [file_digest(path) for path in self.sources]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def accumulation(self) -> int:
        """Number of forward passes in one optimizer step."""
        return self.batch_samples // self.micro_batch_samples

    @property
    def scaling(self) -> float:
        """The factor of the product of B and A."""
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))

    def hyperparameters(self) -> dict[str, Any]:
        """The fields that change the weights, without paths."""
        left_out = {name for name, field in FIELDS.items() if NO_EFFECT in field.metadata} | set(_PATHS)
        chosen = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        chosen["targets"] = sorted(self.targets)
        chosen["data_weights"] = list(self.data_weights)
        without_effect = {"data_weights": not self.data_weights, "beta": not self.preferences}
        return {name: value for name, value in chosen.items() if not without_effect.get(name)}

    def fingerprint(self, base_digest: str) -> str:
        """A digest of everything that the trained weights depend on: hyperparameters, data and base."""
        parts: dict[str, Any] = {"choices": self.hyperparameters(), "base": base_digest}
        files: dict[str, Path | None] = {name: getattr(self, name) for name in _FILES}
        files["start_from"] = self.start_from / "adapter_model.safetensors" if self.start_from else None
        parts |= {name: file_digest(path) if path else None for name, path in files.items()}
        parts["data"] = self.data_digest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


#: The fields of `TrainingConfig` by name, with their descriptions.
FIELDS: Final[Mapping[str, FieldInfo]] = TrainingConfig.__pydantic_fields__  # type: ignore[attr-defined]
