"""What a training is told: one frozen record, each field documented for the command line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from adapters.digests import file_digest

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = ("auto", "float32", "bfloat16")
KEPT = ("best", "last")
BEST_BY = ("loss", "exact")

# Where checkpoints and results lie does not change what is trained, so it is no part of the fingerprint.
_PLACES = ("base", "data", "held_out", "out", "checkpoint_every", "keep_checkpoints")
# Nor does what is only looked at.
_WATCHING = (
    "general",
    "tensorboard",
    "wandb",
    "wandb_online",
    "judge",
    "judge_model",
    "judge_key",
    "judge_against",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything a training depends on. ``help_of(name)`` gives the sentence for a flag."""

    base: Path = field(metadata={"help": "Folder of the base model that the server serves."})
    data: Path = field(metadata={"help": "JSONL of chats in OpenAI `messages` form to train on."})
    out: Path = field(metadata={"help": "Folder the adapter is written into; checkpoints lie in it too."})

    held_out: Path | None = field(
        default=None, metadata={"help": "JSONL to measure on; without it a part of --data is held out."}
    )
    held_out_share: float = field(
        default=0.05, metadata={"help": "Share of --data held out by a hash of the first question."}
    )
    max_length_tokens: int = field(
        default=2048, metadata={"help": "Turns that end beyond this many tokens are left out whole."}
    )
    end_token: str = field(
        default="<|im_end|>", metadata={"help": "Token that ends a turn in the base's chat template."}
    )
    template_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "JSON of extra chat-template arguments, the same as will be served."},
    )

    rank: int = field(default=16, metadata={"help": "LoRA rank; at most the server's --max-lora-rank."})
    alpha: int = field(default=32, metadata={"help": "LoRA alpha; the update is scaled by alpha / rank."})
    targets: tuple[str, ...] = field(
        default=PROJECTIONS, metadata={"help": "Projections that get an adapter."}
    )
    rslora: bool = field(default=False, metadata={"help": "Scale by alpha / sqrt(rank) instead."})
    max_lora_rank: int = field(
        default=16, metadata={"help": "The server's --max-lora-rank; a higher rank is refused."}
    )

    epochs: float = field(default=3.0, metadata={"help": "Times every sample is seen."})
    max_steps: int = field(
        default=-1, metadata={"help": "Stop after this many optimizer steps; -1 goes by --epochs."}
    )
    batch_samples: int = field(default=16, metadata={"help": "Samples of one optimizer step."})
    micro_batch_samples: int = field(
        default=1, metadata={"help": "Samples of one forward pass; 1 needs no padding and is best on CPU."}
    )
    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate; cosine decay to zero."})
    warmup_share: float = field(
        default=0.05, metadata={"help": "Share of the steps over which the learning rate rises."}
    )
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "Gradient norm above which a step is scaled down."}
    )
    dtype: str = field(
        default="auto",
        metadata={"help": "float32, bfloat16, or auto: float32 on CPU, bfloat16 on a GPU that has it."},
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the adapter's first weights and of the order of samples."}
    )

    checkpoint_every: int = field(
        default=0, metadata={"help": "Optimizer steps between checkpoints; 0 keeps none."}
    )
    keep_checkpoints: int = field(default=2, metadata={"help": "Newest checkpoints kept, at least 2."})
    max_new_tokens: int = field(default=256, metadata={"help": "Tokens a held-out answer may have."})
    measure: int = field(
        default=200, metadata={"help": "Held-out turns that are answered and compared, at most; 0 skips it."}
    )

    evaluate_every: int = field(
        default=0,
        metadata={"help": "Optimizer steps between evaluations; 0 is once an epoch, -1 only at the end."},
    )
    evaluate_turns: int = field(
        default=32, metadata={"help": "Held-out turns answered at each evaluation; 0 looks at the loss only."}
    )
    keep: str = field(
        default="best", metadata={"help": "Weights to write: best of all evaluations, or last."}
    )
    best_by: str = field(
        default="loss", metadata={"help": "What best means: held-out loss, or exact answers."}
    )
    patience: int = field(
        default=0, metadata={"help": "Stop after this many evaluations without a better one; 0 goes on."}
    )
    general: Path | None = field(
        default=None,
        metadata={"help": "JSONL of general chats, never trained on, that shows what was forgotten."},
    )
    tensorboard: bool = field(
        default=False, metadata={"help": "Write TensorBoard events into the output's `tensorboard` folder."}
    )
    wandb: str = field(
        default="", metadata={"help": "Weights & Biases project to log to; the run is kept on this machine."}
    )
    wandb_online: bool = field(default=False, metadata={"help": "Send the W&B run while it goes."})
    judge: str = field(
        default="", metadata={"help": "URL of an OpenAI-compatible endpoint whose model judges the answers."}
    )
    judge_model: str = field(default="", metadata={"help": "The judge's model."})
    judge_key: str = field(default="", repr=False, metadata={"help": "The judge's API key."})
    judge_against: Path | None = field(
        default=None,
        metadata={"help": "Adapter folder of the previous version to be judged against; else the bare base."},
    )

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}.")
        if self.batch_samples % self.micro_batch_samples:
            raise ValueError(
                f"batch_samples {self.batch_samples} is not a multiple of micro_batch_samples "
                f"{self.micro_batch_samples}."
            )
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share is {self.held_out_share}; it must be at least 0 and below 1.")
        for name, choices in {"keep": KEPT, "best_by": BEST_BY}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {' or '.join(choices)}.")
        if bool(self.judge) != bool(self.judge_model):
            raise ValueError("judge and judge_model belong together; give both or neither.")

    @property
    def accumulation(self) -> int:
        """Forward passes of one optimizer step."""
        return self.batch_samples // self.micro_batch_samples

    def hyperparameters(self) -> dict[str, Any]:
        """What was chosen, without places."""
        chosen = {k: v for k, v in asdict(self).items() if k not in _PLACES + _WATCHING}
        return chosen | {"targets": sorted(self.targets)}

    def fingerprint(self, base_digest: str) -> str:
        """A digest of everything that the trained weights depend on: choices, data and base."""
        parts = {
            "choices": self.hyperparameters(),
            "base": base_digest,
            "data": file_digest(self.data),
            "held_out": file_digest(self.held_out) if self.held_out else None,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def help_of(name: str) -> str:
    """The sentence that documents a field.

    Raises:
        KeyError: there is no such field.
    """
    texts: dict[str, str] = {f.name: f.metadata["help"] for f in fields(TrainingConfig)}
    return texts[name]
