"""`loragate quantize`: makes a 4-bit checkpoint in AutoAWQ's format, with AutoAWQ, that serves the same adapters.

AWQ (Lin et al. 2023) multiplies the weights of important input channels by s before rounding, and divides the output
of the preceding layer by s. That changes the input and output of a projection: an adapter that was trained on the
full model expects x and gets x/s. So the scales are saved beside the weights, and the server applies them to each
adapter when it loads it (`server.engine.awq_adapters`). docs/decisions/0005 has the measurements.

Uses autoawq 0.2.9 (extra `quantize`): AutoAWQForCausalLM.from_pretrained, .quantize, .save_quantized.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapters.artifact.digests import base_digest
from adapters.training.errors import BaseModelError, MissingPackage, OutputError
from adapters.training.quantization.awq_weights import BITS, is_awq, read_dequantized
from adapters.training.quantization.calibration import (
    GENERATED_TOKENS,
    CalibrationTexts,
    generate_texts,
    perplexity,
    read_texts,
    split_texts,
)
from adapters.training.quantization.search import KeptResults, create_quantizer, search_fingerprint

#: All files of the model's folder except these are copied; config.json is changed.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf")


#: In the checkpoint's folder. NOTE: in a separate folder, because vLLM loads all *.safetensors beside config.json as
#: weights of the model.
REPORT = "loragate/quantize.json"
SCALES = "loragate/scales.safetensors"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Quantization:
    """What to quantize, and how."""

    model: Path
    out: Path
    calibration: Path | None = None
    group_size: int = 128
    block_tokens: int = 512
    """Length of a calibration sequence."""
    blocks: int = 16
    """Number of calibration sequences, at most."""


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """The result, also saved with the checkpoint."""

    base_digest: str
    """Digest of the full model, whose adapters are served."""
    perplexity_before: float
    perplexity_after: float
    held_out_texts: int
    calibration_tokens: int
    bytes_before: int
    bytes_after: int


def quantize(job: Quantization, progress: Progress = lambda stage, done, total: None) -> QuantizationReport:
    """Write ``job.model`` in 4 bits to ``job.out``, which must be empty or not exist.

    An interrupted run goes on after the last finished block of the model. ``progress`` gets what is done now, how
    much of it is done, and how much there is (0: unknown).

    Raises:
        TrainingError: model, texts or folder cannot be used, or autoawq is not installed.
    """
    _check(job)
    loader = _autoawq()
    from transformers import AutoTokenizer

    progress("reading the model", 0, 0)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    quantizable = loader.from_pretrained(
        str(job.model), device_map={"": "cpu"}, torch_dtype=torch.float32, trust_remote_code=False
    )
    model = quantizable.model
    texts = split_texts(
        _texts(job, model, tokenizer, progress), block_tokens=job.block_tokens, blocks=job.blocks
    )
    progress("measuring the full model", 0, 0)
    before = perplexity(model, texts.held_out, most_tokens=job.block_tokens)
    search = _search_folder(job, texts)
    layers = model.config.num_hidden_layers
    kept = KeptResults(search, layers, lambda done, total: progress("searching scales: block", done, total))
    progress("searching scales: block", 0, layers)
    scales = _quantize_layers(quantizable, tokenizer, texts, job, kept)
    progress("writing and measuring the 4-bit model", 0, 0)
    del model
    report = _write_checkpoint(quantizable, scales, texts, job, before)
    shutil.rmtree(search, ignore_errors=True)
    return report


def _texts(job: Quantization, model: Any, tokenizer: Any, progress: Progress) -> list[list[int]]:
    if job.calibration is not None:
        progress("reading the texts", 0, 0)
        return read_texts(job.calibration, tokenizer)
    stage = "the model writes calibration texts: token"
    progress(stage, 0, GENERATED_TOKENS)
    return generate_texts(model, tokenizer, progress=lambda done, total: progress(stage, done, total))


def _search_folder(job: Quantization, texts: CalibrationTexts) -> Path:
    """Where the results of finished blocks are kept until the checkpoint is written."""
    fingerprint = search_fingerprint(base_digest(job.model), texts.calibration, job.group_size)
    return job.out.parent / f".{job.out.name}-search-{fingerprint}"


def _write_checkpoint(
    quantizable: Any,
    scales: dict[str, torch.Tensor],
    texts: CalibrationTexts,
    job: Quantization,
    perplexity_before: float,
) -> QuantizationReport:
    """Write ``job.out``, measured, at once."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.out.parent, prefix=f".{job.out.name}-") as scratch:
        folder = Path(scratch) / "checkpoint"
        _write(quantizable, scales, job.model, folder)
        quantizable.model = None  # the full model makes room for the 4-bit one
        report = QuantizationReport(
            base_digest=base_digest(job.model),
            perplexity_before=perplexity_before,
            perplexity_after=perplexity(
                load_dequantized(folder), texts.held_out, most_tokens=job.block_tokens
            ),
            held_out_texts=len(texts.held_out),
            calibration_tokens=sum(map(len, texts.calibration)),
            bytes_before=_weight_bytes(job.model),
            bytes_after=_weight_bytes(folder),
        )
        (folder / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        folder.rename(job.out)  # atomic, also onto an empty folder
    return report


def load_dequantized(folder: Path) -> Any:
    """A quantized checkpoint as a float32 model of transformers, with the dequantized weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(read_dequantized(folder), strict=False)
    if unexpected or set(missing) - set(model.all_tied_weights_keys):
        raise BaseModelError(f"The checkpoint in {folder.name} does not fit its own config.json.")
    model.tie_weights()
    return model.eval()


def _check(job: Quantization) -> None:
    if not (job.model / "config.json").is_file():
        raise BaseModelError(f"{job.model} is not a model folder: it has no config.json.")
    if is_awq(job.model):
        raise BaseModelError(f"{job.model.name} is already quantized. Give the full model.")
    config = json.loads((job.model / "config.json").read_text(encoding="utf-8"))
    sizes = {name: config.get(name) for name in ("hidden_size", "intermediate_size")}
    odd = {name: size for name, size in sizes.items() if not size or size % job.group_size}
    if odd:
        raise BaseModelError(
            f"{', '.join(f'{name} {size}' for name, size in odd.items())} is not a multiple of the group size "
            f"{job.group_size}. Give --group-size 64 or 32."
        )
    if job.out.exists() and any(job.out.iterdir()):
        raise OutputError(f"{job.out} is not empty. Give another --out.")


def _autoawq() -> Any:
    # It warns that it is deprecated, and torch warns about a decorator that it uses.
    with warnings.catch_warnings(record=True):
        try:
            from awq import AutoAWQForCausalLM
        except ImportError as error:
            raise MissingPackage(
                "autoawq is not installed. Run `pip install --no-deps -r requirements/quantize.txt`."
            ) from error
    return AutoAWQForCausalLM


def _quantize_layers(
    quantizable: Any, tokenizer: Any, texts: CalibrationTexts, job: Quantization, kept: KeptResults
) -> dict[str, torch.Tensor]:
    """Replace the projections by 4-bit ones, layer by layer.

    Returns the scales for adapters: ``<projection>.inputs`` [in] and ``<projection>.outputs`` [out].
    """
    scales: dict[str, torch.Tensor] = {}
    quantizable.quantize(
        tokenizer,
        quant_config={"zero_point": True, "q_group_size": job.group_size, "w_bit": BITS, "version": "GEMM"},
        calib_data=texts.calibration,
        max_calib_samples=job.blocks,
        max_calib_seq_len=job.block_tokens,
        # The paper's own s = mean|x|^ratio. AutoAWQ's default also divides by the weights; its search then never
        # tries s = 1, and the result can be worse than plain rounding (docs/decisions/0005).
        duo_scaling=False,
        quantizer_cls=create_quantizer(scales, kept),
    )
    return scales


def _write(quantizable: Any, scales: dict[str, torch.Tensor], model: Path, out: Path) -> None:
    """Write the model's folder with 4-bit weights; all other files are copied, not saved again.

    NOTE: transformers would save a generation config and tokenizer that differ from those it read, and adapters and
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
        file.chmod(0o644)  # safetensors writes 0600, but the server may run as another user


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
