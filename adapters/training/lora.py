"""Building the LoRA, and refusing before the first step what the server could not serve."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model

from adapters.training.config import PROJECTIONS, TrainingConfig
from adapters.training.errors import UnservableError


def check_servable(config: TrainingConfig) -> None:
    """Refuse what vLLM would refuse, or accept and serve wrong.

    Raises:
        UnservableError: rank, alpha or targets are not servable.
    """
    if config.rank < 1 or config.alpha <= 0:
        raise UnservableError(
            f"rank {config.rank} and alpha {config.alpha} must both be positive: anything else serves "
            "the bare base."
        )
    if config.rank > config.max_lora_rank:
        raise UnservableError(
            f"rank {config.rank} is above the server's max_lora_rank {config.max_lora_rank}. Train with a "
            "lower rank, or start the server with a higher --max-lora-rank and give the same here."
        )
    unknown = sorted(set(config.targets) - set(PROJECTIONS))
    if unknown or not config.targets:
        raise UnservableError(
            f"targets {', '.join(unknown) or '(none)'} cannot be served on Qwen2; choose from "
            f"{', '.join(PROJECTIONS)}."
        )


def add_lora(model: Any, config: TrainingConfig) -> PeftModel:
    """``model`` with a fresh adapter on it; only the adapter's float32 weights are trainable."""
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        bias="none",
        use_rslora=config.rslora,
        target_modules=sorted(config.targets),
    )
    wrapped: PeftModel = get_peft_model(model, lora)
    return wrapped
