"""The sentences about an anomaly: what was seen, and what to change."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What ``rule`` found after ``step``, and what to change. ``alarm`` is False for a mere hint."""

    step: int
    rule: str
    text: str
    alarm: bool = True


def no_gradient_advice() -> str:
    """A gradient of exactly zero."""
    return (
        "the gradient norm is exactly 0: this step learned nothing. It has no trained token, or the loss does not "
        "depend on the adapter; check the data with --check."
    )


def spike_advice(norm: float, normal: float, config: TrainingConfig) -> str:
    """One norm far above the usual one."""
    return (
        f"the gradient norm {norm:.2f} is {norm / normal:.0f} times its usual {normal:.2f}; it was clipped to "
        f"{config.max_grad_norm:g}. One unusual sample is harmless; if it happens again, check the data of these "
        f"steps or lower the learning rate: {_lower_rate(config)}."
    )


def exploding_advice(lowest: float, norm: float, config: TrainingConfig) -> str:
    """Norms that grow in the first steps."""
    return (
        f"the gradient norm rose from {lowest:.2g} to {norm:.2g} in the first steps: the training explodes. Lower "
        f"the learning rate ({_lower_rate(config)}), or let it rise more slowly (--warmup-share "
        f"{max(0.1, 2 * config.warmup_share):g})."
    )


def huge_advice(norm: float, config: TrainingConfig) -> str:
    """Norms that stay at hundreds."""
    return (
        f"the gradient norm stays near {norm:.0f}, and every step is clipped to {config.max_grad_norm:g}: the steps "
        "have a direction and no size. Check the labels and the end token with --check, then lower the learning "
        f"rate: {_lower_rate(config)}. A scaling alpha / rank above 2 does this, too; it is {config.scaling:g} here."
    )


def vanished_advice(norm: float, highest: float, config: TrainingConfig) -> str:
    """Norms that have become nothing although the loss is not low."""
    return (
        f"the gradient norm fell to {norm:.1e} from {highest:.1e} while the loss is not low: the adapter no longer "
        f"learns. Start again with a lower learning rate ({_lower_rate(config)}); look at the samples with --check."
    )


def rising_advice(now: float, lowest: float, config: TrainingConfig) -> str:
    """A loss that has risen."""
    return (
        f"the loss rose to {now:.3f} from {lowest:.3f}: the learning rate {config.learning_rate:.0e} is too high. "
        f"Try {_lower_rate(config)}, or a longer warm-up."
    )


def oscillating_advice(lowest: float, highest: float, config: TrainingConfig) -> str:
    """A loss that goes up and down and does not fall."""
    return (
        f"the loss goes up and down between {lowest:.3f} and {highest:.3f} and does not fall: the steps are too "
        f"large. Try {_lower_rate(config)}, or more samples in a step (--batch-samples {2 * config.batch_samples})."
    )


def stuck_advice(first: float, step: int, config: TrainingConfig) -> str:
    """A loss that stays where it is."""
    rank = 2 * config.rank
    # alpha / rank (rslora: alpha / sqrt(rank)) stays as it is, otherwise the larger adapter learns more slowly.
    alpha = round(config.alpha * (2**0.5 if config.rslora else 2))
    server = f", and the server's --max-lora-rank {rank}" if rank > config.max_lora_rank else ""
    return (
        f"the loss has hardly changed from {first:.3f} in {step} steps. Try the learning rate "
        f"{3 * config.learning_rate:.0e}, then more targets, then a higher rank together with alpha (--rank {rank} "
        f"--alpha {alpha}{server}); check the labels with --check."
    )


def chosen_falling_advice(gain: float, config: TrainingConfig) -> str:
    """Better answers of pairs that become less probable."""
    return (
        f"the better answers have become {-gain:.0f} nats less probable than at the start; the worse ones lose more, "
        f"but the adapter may end at a third kind of answer. Lower the learning rate ({_lower_rate(config)}) or "
        f"raise --beta ({3 * config.beta:g})."
    )


def low_loss_advice(limit: float, config: TrainingConfig) -> str:
    """A low loss, which is a hint only."""
    if config.preferences:
        return (
            f"the loss of the pairs is below {limit}: the adapter tells better and worse answers apart. More steps "
            "move it further from where it started; compare with the held-out pairs."
        )
    return (
        f"the training loss is below {limit}. This is not a fault by itself, because tool calls are learned that "
        "well; compare it with the held-out loss."
    )


def overfitting_advice(now: float, best: float, best_step: int, train: float) -> str:
    """A held-out loss that rises away from the training loss."""
    return (
        f"the held-out loss rose to {now:.3f} from {best:.3f} at step {best_step} while the training loss is "
        f"{train:.3f}: the model memorises the samples. Use fewer epochs, more or more varied data, a lower rank "
        "with its alpha, or --patience 2."
    )


def few_steps_advice(steps: int, wanted: int, config: TrainingConfig) -> str:
    """A training of few steps."""
    batch = max(config.micro_batch_samples, config.batch_samples * steps // (2 * wanted))
    smaller = f"fewer samples in a step (--batch-samples {batch}) or " if batch < config.batch_samples else ""
    more = f"more epochs (--epochs {config.epochs * 2 * wanted / steps:.0f})"
    if config.max_steps > 0:
        more = f"more steps (--max-steps {2 * wanted})"
    return (
        f"the training had {steps} optimizer steps, of which the first ones only warm up. Below {wanted} an adapter "
        f"learns little: use {smaller}{more}."
    )


def _lower_rate(config: TrainingConfig) -> str:
    return f"{config.learning_rate / 3:.0e}"
