"""The memory that a training needs, computed before it starts.

Weights, adapter, gradients and optimizer are exact. Activations are counted from what autograd keeps; the tests
compare the plan with the measured peak.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Sample, shared_lengths
from adapters.training.model.lora import parameters_by_matrix

MIB, GIB = 1 << 20, 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2}
# NF4 with double quantisation: half a byte, an 8-bit scale per 64 weights, a 32-bit scale per 256 of those.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
_OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
# Copies for each trained token: logits, their log-softmax, its gradient; all in float32.
_LOGITS_COPIES = 3
# Workspace of one layer in the backward pass, in units of tokens x intermediate size, in float32.
_WORKSPACE = 6
# From this size on, glibc returns a freed tensor to the system at once, see `return_freed_memory`.
_RETURNED_FROM_BYTES = 4 * MIB
# Heap fragmentation of smaller activations, as a share of them: samples of other lengths leave gaps. On the shape of
# Qwen2.5-0.5B the peak is 0.55 to 0.7 of them above the other parts with one sample per pass, and 0.7 below with
# checkpointing; with this share the plan is within 6 % of every measurement.
_FRAGMENTATION = 0.4
# Rows of samples that share their beginning, of which the largest is planned for.
_SHARED_DRAWS = 100
# Memory that is used after the plan is made: Trainer, thread stacks, allocator slack.
LATER_BYTES = 80 * MIB


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Size of a forward pass: the tokens of all its samples, of its longest sample, and its trained tokens."""

    tokens: int
    longest: int
    trained: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose."""

    base: int  # what the process has already
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    fragmentation: int  # of the heap, on a CPU
    mapped: int  # the base's memory-mapped file; the kernel reclaims it when memory is short
    loading: int  # extra memory while weights are read; free again before the first step

    @property
    def total(self) -> int:
        """The peak."""
        training = self.weights + self.mapped + self.adapter + self.gradients + self.optimizer
        passes = self.activations + self.fragmentation + self.logits
        return self.base + max(training + passes, self.weights + self.loading)

    def rows(self) -> dict[str, int]:
        """Every part, for people."""
        return {
            "runtime": self.base,
            "base weights": self.weights,
            "mapped file": self.mapped,
            "adapter": self.adapter,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "logits": self.logits,
            "heap fragmentation": self.fragmentation,
        }


def plan_memory(
    config: TrainingConfig, shape: BaseShape, largest: ForwardPass, *, base: int, file_bytes: int
) -> MemoryPlan:
    """The memory that ``config`` needs on one device.

    Args:
        config: from ``resolve_auto``.
        shape: of the base.
        largest: the largest forward pass.
        base: bytes that the process has already, on this device.
        file_bytes: size of the base's weights on disk; 0 on a GPU, which maps no file and has another allocator.
    """
    trained = sum(parameters_by_matrix(config, shape).values())
    weights = weight_bytes(config, shape)
    unquantised = weight_bytes(replace(config, qlora=False), shape)
    activations = activation_bytes(config, shape, largest)
    hidden_bytes = largest.tokens * shape.hidden_size * 4
    converts = bool(file_bytes) and abs(unquantised - file_bytes) > 0.1 * unquantised
    return MemoryPlan(
        base=base,
        weights=weights,
        adapter=trained * 4 * (2 if config.preferences else 1),  # pairs: and its frozen copy
        gradients=trained * 4,
        optimizer=trained * _OPTIMIZER_BYTES[config.optimizer],
        activations=activations,
        logits=largest.trained * shape.vocab_size * (4 * _LOGITS_COPIES + _BYTES[config.dtype] % 4),
        fragmentation=int(_FRAGMENTATION * activations)
        if file_bytes and hidden_bytes < _RETURNED_FROM_BYTES
        else 0,
        # NOTE: embeddings that need no conversion stay in the mapped file, so all its pages stay mapped.
        mapped=_projections(shape) * _BYTES[config.dtype]
        if config.qlora and file_bytes and not converts
        else 0,
        loading=file_bytes if converts else 0,
    )


def weight_bytes(config: TrainingConfig, shape: BaseShape) -> int:
    """Bytes of the frozen base: projections in 4 bits with ``qlora``, everything else in ``dtype``."""
    projections = _projections(shape)
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tied else 2)
    norms = shape.hidden_size * (2 * shape.layers + 1)
    biases = shape.layers * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    each = _BYTES[config.dtype]
    return int(projections * (NF4_BYTES if config.qlora else each) + (embeddings + norms + biases) * each)


def _projections(shape: BaseShape) -> int:
    """Weights of the seven projections, over all layers."""
    return shape.layers * sum(rows * columns for columns, rows in shape.projections.values())


def activation_bytes(config: TrainingConfig, shape: BaseShape, largest: ForwardPass) -> int:
    """What autograd keeps from the forward pass, and the workspace of one layer.

    Counted per token and layer from transformers' Qwen2 with peft's LoRA: inputs of the norms and of the adapters'
    A, query, key, value, output of attention, gate, up and their product. Adapters compute in float32, so with
    bfloat16 each keeps a float32 copy of its input.
    """
    each = _BYTES[config.dtype]
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, mlp = shape.hidden_size, shape.intermediate_size
    if each == 4:
        kept = 4 * (4 * hidden + 2 * query + 2 * keys + shape.heads + 7 * config.rank + 4 * mlp + 2)
    else:
        kept = 4 * (7 * hidden + query + shape.heads + 7 * config.rank + mlp + 2)
        kept += 2 * (2 * query + 2 * keys + 3 * mlp)
    if config.attention == "eager":
        kept += shape.heads * largest.longest * (4 + each % 4)
    layers = kept * shape.layers
    if config.gradient_checkpointing:
        layers = hidden * each * shape.layers + kept
    return largest.tokens * (layers + _WORKSPACE * 4 * mlp)


def largest_pass(config: TrainingConfig, samples: Sequence[Sample]) -> ForwardPass:
    """The largest forward pass that ``samples`` can give: the longest samples together; of a pair, both sides."""
    rows = config.micro_batch_samples * (2 if config.preferences else 1)
    longest = sorted((len(s.ids) for s in samples), reverse=True)[:rows]
    most_trained = sorted((s.trained_tokens for s in samples), reverse=True)[:rows]
    padded = longest[0] * len(longest)
    if config.packing == "prefix":
        tokens = _largest_shared(samples, rows)
    else:
        tokens = sum(longest) if config.packing == "on" else padded
    return ForwardPass(tokens=tokens, longest=longest[0], trained=sum(most_trained))


def _largest_shared(samples: Sequence[Sample], rows: int) -> int:
    """Tokens of the largest row of ``rows`` samples that share what they begin with: the longest, and random ones."""
    draw = random.Random(0)
    batches = [sorted(samples, key=lambda s: len(s.ids))[-rows:]]
    batches += [draw.sample(list(samples), min(rows, len(samples))) for _ in range(_SHARED_DRAWS)]
    return max(_shared_tokens(sorted(batch, key=lambda s: s.ids)) for batch in batches)


def _shared_tokens(ordered: Sequence[Sample]) -> int:
    return sum(len(s.ids) - shared for s, shared in zip(ordered, shared_lengths(ordered), strict=True))


def remedies(
    config: TrainingConfig,
    shape: BaseShape,
    samples: Sequence[Sample],
    *,
    base: int,
    file_bytes: int,
    gpu: bool,
) -> Iterator[tuple[str, MemoryPlan]]:
    """Flags that need less memory, the cheapest first, each added to the ones before it, with the new plan."""
    changes: list[tuple[str, Mapping[str, object]]] = [
        ("--micro-batch-samples 1", {"micro_batch_samples": 1}),
        ("--attention sdpa", {"attention": "sdpa"}),
        ("--gradient-checkpointing", {"gradient_checkpointing": True}),
        ("--qlora", {"qlora": True}),
        ("--dtype bfloat16", {"dtype": "bfloat16"}),
    ]
    if gpu:
        changes.insert(2, ("--optimizer adamw_8bit", {"optimizer": "adamw_8bit"}))
    flags: list[str] = []
    for flag, change in changes:
        if all(getattr(config, name) == value for name, value in change.items()):
            continue
        config = replace(config, **change)  # type: ignore[arg-type]
        flags.append(flag)
        plan = plan_memory(config, shape, largest_pass(config, samples), base=base, file_bytes=file_bytes)
        yield " ".join(flags), plan


def return_freed_memory() -> None:
    """Make glibc return the memory of freed tensors to the system, instead of keeping gaps in the heap.

    Samples differ in length, so freed blocks under glibc's moving threshold (up to 32 MiB) seldom fit again, and the
    process grows by hundreds of megabytes. With another C library nothing happens.

    NOTE: a threshold of 1 MiB is too low: the kernel would map every tensor anew, page by page. A step of the demo
    model then takes a third longer, and one of the shape of Qwen2.5-0.5B two fifths.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, _RETURNED_FROM_BYTES)  # M_MMAP_THRESHOLD; setting it also stops it from moving
