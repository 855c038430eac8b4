"""What a training is told: one frozen record, each field documented for the command line."""
# ruff: noqa: RUF009  (_flag and _object make dataclass fields)

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from adapters.artifact.digests import file_digest

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = ("auto", "float32", "bfloat16")
PACKING = ("auto", "on", "off")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
KEPT = ("best", "last")
BEST_BY = ("loss", "exact")

# Named by what they hold, not by where they lie.
_FILES = ("data", "held_out", "replay", "then")
_PLACES = ("base", "out", "start_from", *_FILES)

T = TypeVar("T")


def _flag(default: T, text: str, *, weights: bool = True) -> T:
    """A field with the sentence for its flag; ``weights``: the trained weights depend on it."""
    made: T = field(default=default, metadata={"help": text, "weights": weights})
    return made


def _object(text: str, *, weights: bool = True) -> dict[str, Any]:
    """A field that takes a JSON object."""
    made: dict[str, Any] = field(default_factory=dict, metadata={"help": text, "weights": weights})
    return made


@dataclass(frozen=True, slots=True)
class Preset:
    """A starting point for rank, alpha and learning rate."""

    rank: int
    alpha: int
    learning_rate: float
    why: str

    def values(self) -> dict[str, int | float]:
        """The fields of ``TrainingConfig`` it sets."""
        return {"rank": self.rank, "alpha": self.alpha, "learning_rate": self.learning_rate}

    @property
    def summary(self) -> str:
        """One clause for the help text."""
        return f"rank {self.rank}, alpha {self.alpha}, {self.learning_rate:g} ({self.why})"


PRESETS = {
    "conservative": Preset(16, 16, 2e-4, "little data, stay near the base"),
    "capacity": Preset(32, 32, 2e-4, "much or varied data"),
    "aggressive": Preset(16, 32, 2e-4, "a style or format to be taken over fully"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything a training depends on. ``help_of(name)`` gives the sentence for a flag."""

    base: Path = field(metadata={"help": "Folder of the base model that the server serves."})
    data: Path = field(metadata={"help": "JSONL of chats: OpenAI messages, prompt/completion, or ShareGPT."})
    out: Path = field(metadata={"help": "Folder the adapter is written into; checkpoints lie in it too."})

    # What is trained on.
    held_out: Path | None = _flag(None, "JSONL to measure on; without it a part of --data is held out.")
    held_out_share: float = _flag(0.05, "Share of --data held out by a hash of the first question.")
    max_length_tokens: int = _flag(2048, "Turns that end beyond this many tokens are left out whole.")
    end_token: str = _flag("<|im_end|>", "Token that ends a turn in the base's chat template.")
    template_kwargs: dict[str, Any] = _object(
        "JSON of extra chat-template arguments, the same as will be served."
    )
    replay: Path | None = _flag(None, "JSONL of general chats mixed in against forgetting.")
    replay_ratio: float = _flag(0.15, "Share of the samples that come from --replay.")
    augment: bool = _flag(
        False, "Ask half of the chats in other words and layouts; answers stay as they are."
    )
    then: Path | None = _flag(None, "JSONL of a second stage (function calls, say) for the same adapter.")
    then_rate: float = _flag(0.5, "Learning rate of the second stage, as a share of the first's.")
    start_from: Path | None = _flag(None, "Adapter folder to train on further, instead of a fresh adapter.")

    # The adapter.
    rank: int = _flag(16, "LoRA rank; at most the server's --max-lora-rank.")
    alpha: int = _flag(32, "LoRA alpha; the update is scaled by alpha / rank.")
    dropout: float = _flag(0.0, "LoRA dropout.")
    targets: tuple[str, ...] = _flag(PROJECTIONS, "Projections that get an adapter.")
    rslora: bool = _flag(False, "Scale by alpha / sqrt(rank) instead.")
    lora_options: dict[str, Any] = _object(
        "JSON of further fields of peft's LoraConfig; what cannot be served is refused."
    )
    max_lora_rank: int = _flag(16, "The server's --max-lora-rank; a higher rank is refused.")

    # The loop.
    epochs: float = _flag(3.0, "Times every sample is seen.")
    max_steps: int = _flag(-1, "Stop after this many optimizer steps; -1 goes by --epochs.")
    batch_samples: int = _flag(16, "Samples of one optimizer step.")
    micro_batch_samples: int = _flag(1, "Samples of one forward pass; 1 needs no padding and is best on CPU.")
    packing: str = _flag(
        "auto", "Join the samples of a forward pass to one row: on, off, or auto (on a GPU)."
    )
    learning_rate: float = _flag(2e-4, "Peak learning rate; cosine decay to zero.")
    warmup_share: float = _flag(0.05, "Share of the steps over which the learning rate rises.")
    max_grad_norm: float = _flag(1.0, "Gradient norm above which a step is scaled down.")
    optimizer: str = _flag("adamw", "adamw, or adamw_8bit / paged_adamw_8bit on a GPU.")
    seed: int = _flag(0, "Seed of the adapter's first weights and of the order of samples.")

    # Precision and memory.
    dtype: str = _flag("auto", "float32, bfloat16, or auto: bfloat16 where the hardware computes in it.")
    qlora: bool = _flag(False, "Keep the frozen base in 4 bits (NF4, bitsandbytes) while training.")
    gradient_checkpointing: bool = _flag(
        False, "Recompute activations in the backward pass: slower, much smaller."
    )
    attention: str = _flag("auto", "sdpa, flash_attention_2, eager, or auto (sdpa).")
    over_memory: bool = _flag(False, "Start although the memory plan does not fit.", weights=False)

    # Checkpoints and measuring.
    checkpoint_every: int = _flag(0, "Optimizer steps between checkpoints; 0 keeps none.", weights=False)
    keep_checkpoints: int = _flag(2, "Newest checkpoints kept, at least 2.", weights=False)

    # Evaluations; which weights are kept depends on them.
    max_new_tokens: int = _flag(256, "Tokens a held-out answer may have.")
    measure: int = _flag(200, "Held-out turns that are answered and compared, at most; 0 skips it.")
    evaluate_every: int = _flag(0, "Steps between evaluations; 0 is once an epoch, -1 only at the end.")
    evaluate_turns: int = _flag(32, "Held-out turns answered at each evaluation; 0 looks at the loss only.")
    keep: str = _flag("best", "Weights to write: best of all evaluations, or last.")
    best_by: str = _flag("loss", "What best means: held-out loss, or exact answers.")
    patience: int = _flag(0, "Stop after this many evaluations without a better one; 0 goes on.")

    # Looking on.
    general: Path | None = _flag(
        None, "JSONL of general chats, never trained on, that shows what was forgotten.", weights=False
    )
    tensorboard: bool = _flag(
        False, "Write TensorBoard events into the output's `tensorboard` folder.", weights=False
    )
    wandb: str = _flag(
        "", "Weights & Biases project to log to; the run is kept on this machine.", weights=False
    )
    wandb_online: bool = _flag(False, "Send the W&B run while it goes.", weights=False)
    judge: str = _flag(
        "", "URL of an OpenAI-compatible endpoint whose model compares the answers.", weights=False
    )
    judge_model: str = _flag("", "The judge's model.", weights=False)
    judge_key: str = field(
        default="", repr=False, metadata={"help": "The judge's API key.", "weights": False}
    )
    judge_against: Path | None = _flag(
        None, "Adapter folder of the previous version to compare with; else the bare base.", weights=False
    )

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("packing", self.packing, PACKING)
        _one_of("attention", self.attention, ATTENTIONS)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("keep", self.keep, KEPT)
        _one_of("best_by", self.best_by, BEST_BY)
        if bool(self.judge) != bool(self.judge_model):
            raise ValueError("judge and judge_model belong together; give both or neither.")
        if self.batch_samples % self.micro_batch_samples:
            raise ValueError(
                f"batch_samples {self.batch_samples} is not a multiple of micro_batch_samples "
                f"{self.micro_batch_samples}."
            )
        for name in ("held_out_share", "replay_ratio", "dropout"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {share}; it must be at least 0 and below 1.")
        if self.then_rate <= 0:
            raise ValueError(f"then_rate is {self.then_rate}; it must be above 0.")

    @property
    def accumulation(self) -> int:
        """Forward passes of one optimizer step."""
        return self.batch_samples // self.micro_batch_samples

    @property
    def scaling(self) -> float:
        """What the product of B and A is multiplied with."""
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))

    def hyperparameters(self) -> dict[str, Any]:
        """What was chosen, without places and without what does not change the weights."""
        left_out = {f.name for f in fields(self) if not f.metadata.get("weights", True)} | set(_PLACES)
        chosen = {name: value for name, value in asdict(self).items() if name not in left_out}
        return chosen | {"targets": sorted(self.targets)}

    def fingerprint(self, base_digest: str) -> str:
        """A digest of everything that the trained weights depend on: choices, data and base."""
        parts: dict[str, Any] = {"choices": self.hyperparameters(), "base": base_digest}
        files: dict[str, Path | None] = {name: getattr(self, name) for name in _FILES}
        files["start_from"] = self.start_from / "adapter_model.safetensors" if self.start_from else None
        parts |= {name: file_digest(path) if path else None for name, path in files.items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def help_of(name: str) -> str:
    """The sentence that documents a field.

    Raises:
        KeyError: there is no such field.
    """
    texts: dict[str, str] = {f.name: f.metadata["help"] for f in fields(TrainingConfig)}
    return texts[name]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = " Half precision (float16) gradients overflow; they are never used." if "16" in value else ""
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.{hint}")
