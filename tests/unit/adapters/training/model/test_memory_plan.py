"""The memory plan: known figures, flags that help if it does not fit, and the measured peak of real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import Qwen2Config, Qwen2ForCausalLM

import demo
from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.errors import HardwareError
from adapters.training.model import memory_check as fit
from adapters.training.model.base_model import resolve_auto
from adapters.training.model.lora import add_lora
from adapters.training.model.memory_check import check_memory
from adapters.training.model.memory_plan import (
    GIB,
    MIB,
    ForwardPass,
    activation_bytes,
    largest_pass,
    plan_memory,
    weight_bytes,
)

Configure = Callable[..., TrainingConfig]
_ROOT = Path(__file__).parents[5]
QWEN_3B = BaseShape("qwen2", 36, 2048, 11008, 16, 2, 128, 151936, True)


def test_known_figures() -> None:
    config = TrainingConfig(base=Path("b"), data=Path("d"), out=Path("o"), dtype="bfloat16", attention="sdpa")
    assert weight_bytes(config, QWEN_3B) == 2 * 3_085_938_688  # Qwen2.5-3B has 3.09 billion parameters
    four_bits = weight_bytes(replace(config, qlora=True), QWEN_3B)
    assert 1.5 * GIB < four_bits < 2.3 * GIB


def test_the_weights_of_a_real_model_are_counted_to_the_byte(configure: Configure) -> None:
    config = resolve_auto(configure(), "cpu")
    files = (config.base / "model.safetensors").stat().st_size
    assert weight_bytes(config, BaseShape.from_config(config.base / "config.json")) == pytest.approx(
        files, rel=0.1
    )
    model = Qwen2ForCausalLM.from_pretrained(config.base, dtype=torch.float32)
    assert weight_bytes(config, BaseShape.from_config(config.base / "config.json")) == 4 * sum(
        p.numel() for p in model.parameters()
    )


def kept_by_autograd(config: TrainingConfig, tokens: int, layers: int) -> int:
    """Bytes that the graph of a forward pass keeps in addition to the model's weights."""
    torch.manual_seed(0)
    dtype = getattr(torch, config.dtype)
    shape = Qwen2Config(
        vocab_size=64, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, tie_word_embeddings=True,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation=config.attention,
    )  # fmt: skip
    base = Qwen2ForCausalLM(shape).to(dtype)
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    model = add_lora(base, config).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    assert out.logits.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_layers_activations_are_what_autograd_keeps(
    configure: Configure, dtype: str, attention: str
) -> None:
    config = configure(dtype=dtype, attention=attention, rank=8)
    measured = kept_by_autograd(config, 128, 3) - kept_by_autograd(config, 128, 2)
    one, two = (
        activation_bytes(
            config, BaseShape("qwen2", layers, 64, 160, 4, 2, 16, 64, True), ForwardPass(128, 128, 1)
        )
        for layers in (2, 3)
    )
    assert two - one == pytest.approx(measured, rel=0.06)


def test_checkpointing_keeps_a_layers_input_alone(configure: Configure) -> None:
    config = configure(dtype="float32", attention="sdpa", rank=8, gradient_checkpointing=True)
    measured = kept_by_autograd(config, 128, 3) - kept_by_autograd(config, 128, 2)
    one, two = (
        activation_bytes(
            config, BaseShape("qwen2", layers, 64, 160, 4, 2, 16, 64, True), ForwardPass(128, 128, 1)
        )
        for layers in (2, 3)
    )
    assert two - one == measured == 128 * 64 * 4


def test_the_largest_pass_is_padded_or_packed(configure: Configure) -> None:
    samples = [Sample((1,) * n, (IGNORED,) * (n - 2) + (1, 1)) for n in (5, 9, 3, 7)]
    assert largest_pass(configure(micro_batch_samples=2, packing="off"), samples) == ForwardPass(18, 9, 4)
    assert largest_pass(configure(micro_batch_samples=2, packing="on"), samples) == ForwardPass(16, 9, 4)
    # Of seven tokens the last two are trained, and the one before them predicts: four are shared with the longest.
    assert largest_pass(configure(micro_batch_samples=2, packing="prefix"), samples) == ForwardPass(12, 9, 4)


def test_what_does_not_fit_is_refused_with_the_flag_that_helps(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve_auto(configure(micro_batch_samples=8, dtype="float32"), "cpu")
    prepared = prepare(config, load_renderer(config))
    console = Console(quiet=True)
    plan = check_memory(config, prepared, "cpu", console)
    monkeypatch.setattr(fit, "available_bytes", lambda _: plan.total - plan.activations // 2)
    with pytest.raises(HardwareError, match="Give --micro-batch-samples 1, and it fits"):
        check_memory(config, prepared, "cpu", console)
    check_memory(replace(config, over_memory=True), prepared, "cpu", console)
    monkeypatch.setattr(fit, "available_bytes", lambda _: plan.base)
    with pytest.raises(HardwareError, match="No flag makes it fit"):
        check_memory(config, prepared, "cpu", console)


def test_a_known_3b_training_needs_what_it_needs() -> None:
    """Qwen2.5-3B on a GPU: 6 GB in bfloat16, less than half of that with --qlora; logits are counted."""
    config = TrainingConfig(
        base=Path("b"), data=Path("d"), out=Path("o"), dtype="bfloat16", attention="sdpa", packing="on",
        gradient_checkpointing=True, micro_batch_samples=4,
    )  # fmt: skip
    largest = ForwardPass(4 * 2048, 2048, 4 * 2048)
    plan = plan_memory(config, QWEN_3B, largest, base=0, file_bytes=0)
    assert plan.logits > 4 * 2048 * 151936 * 4  # 4.6 GiB for the logits alone
    small = plan_memory(replace(config, qlora=True), QWEN_3B, largest, base=0, file_bytes=0)
    assert small.weights < 0.4 * plan.weights and small.activations == plan.activations
    assert small.mapped == 0  # nothing is mapped on a GPU
    assert (
        plan_memory(replace(config, qlora=True), QWEN_3B, largest, base=0, file_bytes=6 * GIB).mapped
        > 3 * GIB
    )
    open_ = plan_memory(replace(config, gradient_checkpointing=False), QWEN_3B, largest, base=0, file_bytes=0)
    assert open_.activations > 8 * plan.activations


_PROGRAM = """
import json, re, sys
from pathlib import Path
import torch
from adapters.training.config import TrainingConfig
from adapters.training.training_run import train
torch.set_num_threads(1)
base, data, out, more = sys.argv[1:]
report = train(TrainingConfig(base=Path(base), data=Path(data), out=Path(out), held_out_share=0.0, measure=0,
                              max_steps=2, **json.loads(more)))
# Not ru_maxrss, which starts with the value of the parent process.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"plan": report.document["memory_plan_bytes"], "peak": peak}))
"""


def measured(base: Path, tmp_path: Path, **more: object) -> dict[str, int]:
    """Plan and measured peak of a real training in a separate process, with chats of similar length."""
    data = tmp_path / "data.jsonl"
    rows = demo.ADAPTERS["globex-tools"].data.read_text().splitlines()
    data.write_text("\n".join([r for r in rows if len(json.loads(r).get("tools") or []) == 4][:8]))
    call = [sys.executable, "-c", _PROGRAM, str(base), str(data), str(tmp_path / "out"), json.dumps(more)]
    ended = subprocess.run(call, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=600)
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    print(f"{more}: plan {found['plan'] / MIB:,.0f} MiB, peak {found['peak'] / MIB:,.0f} MiB")
    return found


@pytest.mark.slow
def test_the_plan_is_the_measured_peak_on_the_demo_model(tmp_path: Path) -> None:
    found = measured(demo.MODEL_DIR, tmp_path, batch_samples=8, micro_batch_samples=8)
    assert found["plan"] == pytest.approx(found["peak"], rel=0.15)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "more",
    [
        {"dtype": "float32"},
        {"dtype": "float32", "gradient_checkpointing": True},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "micro_batch_samples": 4},
        {"dtype": "bfloat16", "qlora": True},
    ],
    ids=["float32", "checkpointing", "bfloat16", "four at once", "qlora"],
)
def test_the_plan_is_the_measured_peak_on_the_shape_of_qwen_05b(
    tmp_path: Path, more: dict[str, object]
) -> None:
    base = tmp_path / "base"
    shape = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        Qwen2ForCausalLM(shape).save_pretrained(base)
    finally:
        torch.set_default_dtype(default)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(demo.MODEL_DIR / name, base / name)
    found = measured(base, tmp_path, batch_samples=4, **more)
    assert found["plan"] == pytest.approx(found["peak"], rel=0.15)
