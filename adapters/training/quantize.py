"""`loragate quantize`: a 4-bit checkpoint in AutoAWQ's format, made by AutoAWQ, that serves the same adapters.

AWQ (Lin et al. 2023) multiplies the weights of important input channels by s before it rounds and divides the
layer before by s. That division changes what the projections see: an adapter that was trained on the full model
reads x and would be given x/s. So by default only the other half of AWQ's search is done, the clipping of each
group's range by what the activations show; `fold_scales` does both, for a base that is served without adapters
or whose adapters are trained on the quantized model. docs/decisions/ has the figures.

Leans on autoawq 0.2.9 (extra `quantize`): AutoAWQForCausalLM.from_pretrained, .quantize, .save_quantized.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.digests import base_digest
from adapters.training.awq_weights import BITS, is_awq, read_widened
from adapters.training.calibration import Texts, own_texts, perplexity, read_texts, split
from adapters.training.errors import BaseModelError, MissingPackage, OutputError

#: Everything of the model's folder but its weights goes along as it is; config.json is changed.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf")


#: Beside the weights: what was done, and of which model.
REPORT = "quantize.json"


@dataclass(frozen=True, slots=True)
class Quantization:
    """What to quantize, and how."""

    model: Path
    out: Path
    calibration: Path | None = None
    group_size: int = 128
    block_tokens: int = 512
    """Length of the sequences it is calibrated with."""
    blocks: int = 64
    """Most texts it is calibrated with."""
    fold_scales: bool = False


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What came of it; stands beside the weights as quantize.json."""

    base_digest: str
    """Of the full model: its adapters are served, unless the scales were folded."""
    perplexity_before: float
    perplexity_after: float
    held_out_texts: int
    calibration_tokens: int
    bytes_before: int
    bytes_after: int
    fold_scales: bool


def quantize(wish: Quantization) -> QuantizationReport:
    """Write the 4-bit form of `wish.model` to `wish.out`, which must not exist or be empty.

    Raises:
        TrainingError: model, texts or folder cannot be used, or autoawq is not installed.
    """
    _check(wish)
    loader = _autoawq()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wish.model)
    quantizable = loader.from_pretrained(
        str(wish.model), device_map={"": "cpu"}, torch_dtype=torch.float32, trust_remote_code=False
    )
    model = quantizable.model
    texts = split(
        read_texts(wish.calibration, tokenizer) if wish.calibration else own_texts(model, tokenizer),
        wish.block_tokens,
    )
    before = perplexity(model, texts.held_out, most_tokens=wish.block_tokens)
    _search(quantizable, tokenizer, texts, wish)
    _write(quantizable, wish)
    report = QuantizationReport(
        base_digest=base_digest(wish.model),
        perplexity_before=before,
        perplexity_after=perplexity(load_widened(wish.out), texts.held_out, most_tokens=wish.block_tokens),
        held_out_texts=len(texts.held_out),
        calibration_tokens=sum(map(len, texts.calibration[: wish.blocks])),
        bytes_before=_weight_bytes(wish.model),
        bytes_after=_weight_bytes(wish.out),
        fold_scales=wish.fold_scales,
    )
    (wish.out / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    return report


def load_widened(folder: Path) -> Any:
    """A quantized checkpoint as a float32 model of transformers, with the weights that its 4 bits stand for."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(read_widened(folder), strict=False)
    if unexpected or set(missing) - set(model.all_tied_weights_keys):
        raise BaseModelError(f"The checkpoint in {folder.name} does not fit its own config.json.")
    model.tie_weights()
    return model.eval()


def _check(wish: Quantization) -> None:
    if not (wish.model / "config.json").is_file():
        raise BaseModelError(f"{wish.model} is no model's folder: it has no config.json.")
    if is_awq(wish.model):
        raise BaseModelError(f"{wish.model.name} is quantized already. Give the full model.")
    config = json.loads((wish.model / "config.json").read_text(encoding="utf-8"))
    sizes = {name: config.get(name) for name in ("hidden_size", "intermediate_size")}
    odd = {name: size for name, size in sizes.items() if not size or size % wish.group_size}
    if odd:
        raise BaseModelError(
            f"{', '.join(f'{name} {size}' for name, size in odd.items())}: no multiple of the group size "
            f"{wish.group_size}. Give --group-size 64 or 32."
        )
    if wish.out.exists() and any(wish.out.iterdir()):
        raise OutputError(f"{wish.out} is not empty. Give another --out.")


def _autoawq() -> Any:
    # It says farewell, and torch has a word on a decorator it uses.
    with warnings.catch_warnings(record=True):
        try:
            from awq import AutoAWQForCausalLM
        except ImportError as error:
            raise MissingPackage(
                "autoawq is not installed: pip install --no-deps -r requirements/quantize.txt"
            ) from error
    return AutoAWQForCausalLM


def _search(quantizable: Any, tokenizer: Any, texts: Texts, wish: Quantization) -> None:
    """Find clips (and scales) layer by layer and put 4-bit projections in place of the full ones."""
    if not wish.fold_scales:
        quantizable.get_layers_for_scaling = lambda *_: []
    quantizable.quantize(
        tokenizer,
        quant_config={"zero_point": True, "q_group_size": wish.group_size, "w_bit": BITS, "version": "GEMM"},
        calib_data=texts.calibration,
        max_calib_samples=wish.blocks,
        max_calib_seq_len=wish.block_tokens,
    )


def _write(quantizable: Any, wish: Quantization) -> None:
    """The model's folder with 4-bit weights; what has no weights is copied, not written anew.

    NOTE: transformers would write another generation config and tokenizer than were read, and adapters and
    answers depend on both.
    """
    quantizable.model.half()
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wish.out.parent) as scratch:
        quantizable.save_quantized(scratch)
        written = Path(scratch)
        stored = json.loads((written / "config.json").read_text(encoding="utf-8"))["quantization_config"]
        shutil.copytree(
            wish.model, wish.out, ignore=shutil.ignore_patterns(*_WEIGHTS, ".*"), dirs_exist_ok=True
        )
        for file in (*written.glob("*.safetensors"), *written.glob("*.safetensors.index.json")):
            shutil.move(file, wish.out / file.name)
    config = json.loads((wish.model / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config |= {"dtype": "float16", "quantization_config": stored}
    (wish.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
