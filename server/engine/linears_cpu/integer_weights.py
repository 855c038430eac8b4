"""Weights of 4 or 8 bits in the memory order of their loop. Leans on nothing of vLLM.

Weights [outputs, inputs] are kept in blocks of 4 outputs and 64 inputs, so that memory is read from one end to the
other. With 4 bits a block is uint16 [4, 16], and word i of an output has its inputs i, i + 16, i + 32 and i + 48,
the first in the lowest bits. With 8 bits it is int8 [4, 4, 16]: quarters, outputs, inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from server.engine.linears_cpu.integer_tile import INPUTS, OUTPUTS


@dataclass(frozen=True, slots=True)
class IntegerWeights:
    """Packed weights: `blocks` as above, scales float32 and zeros uint8 [outputs / 4, groups, 4]."""

    blocks: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    outputs: int
    inputs: int
    bits: int

    def first(self, outputs: int) -> IntegerWeights:
        """The first outputs, a multiple of `OUTPUTS`, in the same memory."""
        blocks = outputs // OUTPUTS
        return replace(
            self,
            blocks=self.blocks[:blocks],
            scales=self.scales[:blocks],
            zeros=self.zeros[:blocks],
            outputs=outputs,
        )

    @property
    def groups(self) -> int:
        return int(self.scales.shape[1])


def can_pack(outputs: int, inputs: int, group_size: int) -> bool:
    """Whether weights of this shape can be packed."""
    return outputs % OUTPUTS == 0 and group_size % INPUTS == 0 and group_size > 0 and inputs % group_size == 0


def pack_four_bits(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> IntegerWeights:
    """Pack the weights `(codes - zeros) * scales`.

    Args:
        codes: uint8 [outputs, inputs], 0 … 15.
        zeros: uint8 [outputs, groups], 0 … 15.
        scales: [outputs, groups].
    """
    outputs, inputs = codes.shape
    quarters = codes.view(outputs // OUTPUTS, OUTPUTS, inputs // INPUTS, 4, 16).to(torch.int32)
    words = sum(quarters[:, :, :, place] << (4 * place) for place in range(4))
    blocks = torch.as_tensor(words).to(torch.int16).transpose(1, 2).contiguous()
    return IntegerWeights(blocks, _by_block(scales.float()), _by_block(zeros), outputs, inputs, 4)


def round_to_eight_bits(weight: torch.Tensor, group_size: int = 128) -> IntegerWeights:
    """Round weights [outputs, inputs] to 8 bits, with a scale for each group of inputs of an output."""
    outputs, inputs = weight.shape
    groups = weight.float().view(outputs, -1, group_size)
    scales = groups.abs().amax(2) / 127
    codes = (groups / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, :, None]).round_().to(torch.int8)
    quarters = codes.view(outputs // OUTPUTS, OUTPUTS, inputs // 16, 16)
    blocks = quarters.transpose(1, 2).contiguous()
    return IntegerWeights(blocks, _by_block(scales), torch.empty(0, dtype=torch.uint8), outputs, inputs, 8)


def _by_block(values: torch.Tensor) -> torch.Tensor:
    """[outputs, groups] as [outputs / 4, groups, 4]."""
    return values.view(-1, OUTPUTS, values.shape[1]).transpose(1, 2).contiguous()
