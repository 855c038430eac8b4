"""Lets vLLM accept float32 as the dtype of an AWQ model.

Leans on (vLLM 0.32): `AutoAWQConfig.get_supported_act_dtypes` (replaced), which vLLM asks in each process that makes
a `VllmConfig`. It leaves out float32, because no kernel of vLLM computes in it.
"""

from __future__ import annotations

import torch
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig


def allow_float32() -> None:
    """Accept float32 in this process, for our kernel. Idempotent."""
    AutoAWQConfig.get_supported_act_dtypes = classmethod(_act_dtypes)


def _act_dtypes(cls: type) -> list[torch.dtype]:
    return [torch.half, torch.bfloat16, torch.float32]
