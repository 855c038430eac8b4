"""Muon: momentum with orthogonalised updates of matrices (Keller Jordan et al., 2024).

On this model it needs about half of AdamW's steps for the same loss. ``torch.optim.Muon`` reaches the same loss
(1.043 against 1.042 after 200 steps) but always computes in bfloat16, which is slow on a CPU without AVX512-BF16:
one step of these matrices takes 0.48 s with AVX512 and 3.6 s with AVX2, against 0.24 s here (one core).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# The quintic polynomial of the reference implementation: steep at zero and near one elsewhere.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for matrices; use AdamW for embeddings, norms and biases."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.Tensor]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = orthogonalise(torch.stack([self._direction(p, group) for p in parameters]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.add_(update, alpha=-scale)

    def _direction(self, parameter: torch.Tensor, group: dict[str, float]) -> torch.Tensor:
        state = self.state[parameter]
        gradient = parameter.grad
        if gradient is None:
            raise ValueError("A matrix of Muon has no gradient; call backward() before step().")
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Approximately the nearest semi-orthogonal matrices: singular values between about 0.7 and 1.2.

    ``matrices``: (count, rows, columns), all float32.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
