"""`loragate quantize`: a 4-bit checkpoint in AutoAWQ's format, made by AutoAWQ, that serves the same adapters.

AWQ (Lin et al. 2023) multiplies the weights of important input channels by s before it rounds, and divides what
comes before by s. That changes what a projection reads and writes: an adapter that was trained on the full model
expects x and is given x/s. So the scales are kept beside the weights, and the server applies them to each adapter
as it loads it (`server.engine.awq_adapters`). docs/decisions/0005 tells how much that matters.

Leans on autoawq 0.2.9 (extra `quantize`): AutoAWQForCausalLM.from_pretrained, .quantize, .save_quantized, and
AwqQuantizer._search_best_scale.
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
from safetensors.torch import save_file

from adapters.artifact.digests import base_digest
from adapters.training.errors import BaseModelError, MissingPackage, OutputError
from adapters.training.quantization.awq_weights import BITS, is_awq, read_widened
from adapters.training.quantization.calibration import Texts, own_texts, perplexity, read_texts, split

#: Everything of the model's folder but its weights goes along as it is; config.json is changed.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf")


#: In the checkpoint's folder. NOTE: a folder of its own, because vLLM takes all *.safetensors beside config.json for
#: weights of the model.
REPORT = "loragate/quantize.json"
SCALES = "loragate/scales.safetensors"


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
    """Most of them."""


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What came of it; also kept with the checkpoint."""

    base_digest: str
    """Of the full model, whose adapters are served."""
    perplexity_before: float
    perplexity_after: float
    held_out_texts: int
    calibration_tokens: int
    bytes_before: int
    bytes_after: int


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
        block_tokens=wish.block_tokens,
        blocks=wish.blocks,
    )
    before = perplexity(model, texts.held_out, most_tokens=wish.block_tokens)
    scales = _search(quantizable, tokenizer, texts, wish)
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wish.out.parent, prefix=f".{wish.out.name}-") as scratch:
        folder = Path(scratch) / "checkpoint"
        _write(quantizable, scales, wish.model, folder)
        del quantizable, model
        report = QuantizationReport(
            base_digest=base_digest(wish.model),
            perplexity_before=before,
            perplexity_after=perplexity(load_widened(folder), texts.held_out, most_tokens=wish.block_tokens),
            held_out_texts=len(texts.held_out),
            calibration_tokens=sum(map(len, texts.calibration)),
            bytes_before=_weight_bytes(wish.model),
            bytes_after=_weight_bytes(folder),
        )
        (folder / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        folder.rename(wish.out)  # whole or not at all; an empty folder may have been there
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


def _search(quantizable: Any, tokenizer: Any, texts: Texts, wish: Quantization) -> dict[str, torch.Tensor]:
    """Put 4-bit projections in place of the full ones, layer by layer.

    Returns what adapters must be multiplied with: `<projection>.inputs` [in] and `<projection>.outputs` [out].
    """
    from awq.quantize.quantizer import AwqQuantizer

    scales: dict[str, torch.Tensor] = {}

    class Recorder(AwqQuantizer):
        """AutoAWQ applies the scales that it finds and forgets them."""

        def _search_best_scale(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            found = super()._search_best_scale(module, *args, **kwargs)
            before, after, scale = found
            number = next(i for i, layer in enumerate(self.modules) if layer is module)
            for name in after:
                scales[f"model.layers.{number}.{name}.inputs"] = scale.float().reshape(-1).clone()
            if before.endswith("_proj"):
                scales[f"model.layers.{number}.{before}.outputs"] = 1 / scale.float().reshape(-1)
            return found

    quantizable.quantize(
        tokenizer,
        quant_config={"zero_point": True, "q_group_size": wish.group_size, "w_bit": BITS, "version": "GEMM"},
        calib_data=texts.calibration,
        max_calib_samples=wish.blocks,
        max_calib_seq_len=wish.block_tokens,
        # The paper's own s = mean|x|^ratio. AutoAWQ's default divides by the weights as well; its search then never
        # tries s = 1, and can end further from the full model than plain rounding does (docs/decisions/0005).
        duo_scaling=False,
        quantizer_cls=Recorder,
    )
    return scales


def _write(quantizable: Any, scales: dict[str, torch.Tensor], model: Path, out: Path) -> None:
    """The model's folder with 4-bit weights; what has no weights is copied, not written anew.

    NOTE: transformers would write another generation config and tokenizer than were read, and adapters and
    answers depend on both.
    """
    quantizable.model.half()
    written = out.with_name("autoawq")
    quantizable.save_quantized(str(written))
    stored = json.loads((written / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    shutil.copytree(model, out, ignore=shutil.ignore_patterns(*_WEIGHTS, ".*"))
    for file in (*written.glob("*.safetensors"), *written.glob("*.safetensors.index.json")):
        shutil.move(file, out / file.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config |= {"dtype": "float16", "quantization_config": stored}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / SCALES).parent.mkdir()
    save_file(scales, out / SCALES)
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and another user may serve it


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
