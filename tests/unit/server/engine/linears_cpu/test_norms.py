"""vLLM's compiled norm gives what its own operators of torch give, and the symbols that we lean on."""

from __future__ import annotations

import inspect

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.custom_op import CustomOp
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.platforms import current_platform

from server.engine.linears_cpu.norms import use_compiled_norms


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    current_platform.import_kernels()


def make_norm(width: int = 64, **options: object) -> RMSNorm:
    with set_current_vllm_config(VllmConfig()):
        norm = RMSNorm(width, 1e-5, **options)
    if norm.has_weight:
        norm.weight.data.uniform_(0.5, 1.5)
    return norm


def test_contract_a_layer_calls_its_forward_method() -> None:
    assert "self._forward_method(" in inspect.getsource(CustomOp.forward)
    assert list(inspect.signature(RMSNorm.forward_native).parameters) == ["self", "x", "residual"]


@pytest.mark.parametrize("rows", [0, 1, 5, 40])
def test_the_same_norm(rows: int) -> None:
    model = torch.nn.Sequential(make_norm())
    norm = model[0]
    x, residual = torch.randn(rows, 64) * 3, torch.randn(rows, 64)
    alone = norm.forward_native(x.clone())
    both = norm.forward_native(x.clone(), residual.clone())
    assert use_compiled_norms(model) == 1
    with torch.inference_mode():
        assert torch.allclose(norm(x), alone, atol=1e-5)
        found = norm(x.clone(), residual.clone())
    assert torch.allclose(found[0], both[0], atol=1e-5) and torch.equal(found[1], both[1])


def test_other_rows_are_left_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(make_norm())
    norm = model[0]
    asked: list[torch.Size] = []
    monkeypatch.setattr(norm, "forward_native", lambda x, residual: asked.append(x.shape))
    use_compiled_norms(model)
    for x in (torch.randn(2, 3, 64), torch.randn(64, 4).t(), torch.randn(2, 64).bfloat16()):
        norm(x)
    norm(torch.randn(2, 64), torch.randn(64, 2).t())
    assert len(asked) == 4


@pytest.mark.parametrize(
    "norm",
    [{"has_weight": False}, {"var_hidden_size": 32}, {"dtype": torch.bfloat16}],
    ids=lambda given: next(iter(given)),
)
def test_other_norms_are_left_to_vllm(norm: dict[str, object]) -> None:
    assert use_compiled_norms(torch.nn.Sequential(make_norm(**norm))) == 0
