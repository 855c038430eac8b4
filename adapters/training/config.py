"""What a training is told: one frozen record, each field documented for the command line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from adapters.digests import file_digest

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Where checkpoints and results lie does not change what is trained, so it is no part of the fingerprint.
_PLACES = ("base", "data", "held_out", "out", "checkpoint_every", "keep_checkpoints")


def _doc(text: str, default: Any) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything a training depends on. ``help_of(name)`` gives the sentence for a flag."""

    base: Path = field(metadata={"help": "Folder of the base model that the server serves."})
    data: Path = field(metadata={"help": "JSONL of chats in OpenAI `messages` form to train on."})
    out: Path = field(metadata={"help": "Folder the adapter is written into; checkpoints lie in it too."})

    held_out: Path | None = _doc("JSONL to measure on; without it a part of --data is held out.", None)
    held_out_share: float = _doc("Share of --data held out by a hash of the first question.", 0.05)
    max_length_tokens: int = _doc("Turns that end beyond this many tokens are left out whole.", 2048)
    end_token: str = _doc("Token that ends a turn in the base's chat template.", "<|im_end|>")
    template_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "JSON of extra chat-template arguments, the same as will be served."},
    )

    rank: int = _doc("LoRA rank; at most the server's --max-lora-rank.", 16)
    alpha: int = _doc("LoRA alpha; the update is scaled by alpha / rank.", 32)
    targets: tuple[str, ...] = _doc("Projections that get an adapter.", PROJECTIONS)
    rslora: bool = _doc("Scale by alpha / sqrt(rank) instead.", False)
    max_lora_rank: int = _doc("The server's --max-lora-rank; a higher rank is refused.", 16)

    epochs: float = _doc("Times every sample is seen.", 3.0)
    max_steps: int = _doc("Stop after this many optimizer steps; -1 goes by --epochs.", -1)
    batch_samples: int = _doc("Samples of one optimizer step.", 16)
    micro_batch_samples: int = _doc("Samples of one forward pass; 1 needs no padding and is best on CPU.", 1)
    learning_rate: float = _doc("Peak learning rate; cosine decay to zero.", 2e-4)
    warmup_share: float = _doc("Share of the steps over which the learning rate rises.", 0.05)
    max_grad_norm: float = _doc("Gradient norm above which a step is scaled down.", 1.0)
    dtype: str = _doc("float32, bfloat16, or auto: float32 on CPU, bfloat16 on a GPU that has it.", "auto")
    seed: int = _doc("Seed of the adapter's first weights and of the order of samples.", 0)

    checkpoint_every: int = _doc("Optimizer steps between checkpoints; 0 keeps none.", 0)
    keep_checkpoints: int = _doc("Newest checkpoints kept, at least 2.", 2)
    max_new_tokens: int = _doc("Tokens a held-out answer may have.", 256)
    measure: int = _doc("Held-out turns that are answered and compared, at most; 0 skips it.", 200)

    def __post_init__(self) -> None:
        if self.batch_samples % self.micro_batch_samples:
            raise ValueError(
                f"batch_samples {self.batch_samples} is not a multiple of micro_batch_samples "
                f"{self.micro_batch_samples}."
            )
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share is {self.held_out_share}; it must be at least 0 and below 1.")

    @property
    def accumulation(self) -> int:
        """Forward passes of one optimizer step."""
        return self.batch_samples // self.micro_batch_samples

    def hyperparameters(self) -> dict[str, Any]:
        """What was chosen, without places."""
        return {k: v for k, v in asdict(self).items() if k not in _PLACES}

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
