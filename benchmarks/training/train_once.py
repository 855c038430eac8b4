"""One training, ours or TRL's, in a process of its own, so that peak memory is measured per training.

    python -m benchmarks.training.train_once ours|ours-packed|trl|trl-packed '{"base": …, "data": …, "out": …, …}'

Both get the same samples (ids and labels), the same LoRA on the same base, the same seed and so the same order.
Prints one JSON object as the last line: losses, seconds, tokens and peak bytes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Sample
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.loop.trainer import LoraTrainer, run_loop
from adapters.training.model.base_model import device_of, load_base, resolve_auto
from adapters.training.model.lora import add_lora

OURS, OURS_PACKED, TRL, TRL_PACKED = "ours", "ours-packed", "trl", "trl-packed"
PACKED_TOKENS = 1024


def main(argv: Sequence[str]) -> int:
    """Train once and print the figures."""
    trainer_name, flags = argv[0], json.loads(argv[1])
    if trainer_name == OURS_PACKED:
        flags |= {"packing": "on", "micro_batch_samples": flags["batch_samples"]}
    config = resolve_auto(_config(flags), device_of())
    renderer = load_renderer(config)
    samples = prepare(config, renderer).samples
    model = add_lora(load_base(config, device_of()), config)
    trainer = (
        LoraTrainer(model=model, config=config, samples=samples, pad_id=renderer.pad_id)
        if trainer_name in (OURS, OURS_PACKED)
        else _trl(model, config, samples, renderer.tokenizer, packed=trainer_name == TRL_PACKED)
    )
    began_s = time.perf_counter()
    if isinstance(trainer, LoraTrainer):
        run_loop(trainer, "benchmark")
    else:
        trainer.train()
    seconds = time.perf_counter() - began_s
    print(
        json.dumps(
            {
                "who": trainer_name,
                "dtype": config.dtype,
                "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
                "seconds": seconds,
                "trained_tokens": sum(sample.trained_tokens for sample in samples),
                "tokens": sum(len(sample.ids) for sample in samples),
                "peak_bytes": _peak_bytes(),
            }
        )
    )
    return 0


def _peak_bytes() -> int:
    """The peak RSS of this process. `ru_maxrss` may be the parent's, from the time between fork and exec."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux has this line"
    return int(found[1]) * 1024


def _config(flags: dict[str, Any]) -> TrainingConfig:
    paths: dict[str, Any] = {name: Path(flags.pop(name)) for name in ("base", "data", "out")}
    return TrainingConfig(**paths, held_out_share=0.0, measure=0, epochs=1.0, **flags)


def _trl(
    model: Any, config: TrainingConfig, samples: Sequence[Sample], tokenizer: Any, *, packed: bool
) -> Any:
    import datasets
    import trl

    datasets.disable_progress_bars()
    rows = {"input_ids": [list(s.ids) for s in samples], "labels": [list(s.labels) for s in samples]}
    return trl.SFTTrainer(
        model=model,
        args=_sft_config(config, packed=packed),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=tokenizer,
    )


def _sft_config(config: TrainingConfig, *, packed: bool) -> Any:
    """TRL's defaults, except those that would make it slower: recomputed activations and a cast to bfloat16.

    Packing is TRL's own: best fit, without padding.
    """
    import trl

    return trl.SFTConfig(
        output_dir=str(config.out / "trl"),
        per_device_train_batch_size=config.micro_batch_samples,
        # A packed row holds many samples, so a step needs few rows.
        gradient_accumulation_steps=1 if packed else config.accumulation,
        packing=packed,
        max_length=PACKED_TOKENS if packed else config.max_length_tokens,
        num_train_epochs=1.0,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.seed,
        data_seed=config.seed,
        gradient_checkpointing=False,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
