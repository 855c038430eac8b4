"""The plugin's contract with vLLM, and the shape of each vLLM symbol that we replace or build on."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
import vllm.platforms
from vllm.lora.layers import BaseLayerWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperABC
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform
from vllm.utils.import_utils import resolve_obj_by_qualname

from server.engine import plugin
from server.engine.lora_cpu.wrapper import LoragatePunicaWrapperCPU

STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"


@pytest.fixture
def stock_platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run with vLLM's own `get_punica_wrapper`, and put back whatever was there."""
    monkeypatch.setattr(CpuPlatform, "get_punica_wrapper", classmethod(lambda cls: STOCK))
    yield


def test_register_is_idempotent_and_names_our_class(stock_platform: None) -> None:
    for _ in range(3):
        plugin.register()
        assert CpuPlatform.get_punica_wrapper() == plugin.PUNICA_WRAPPER
    assert resolve_obj_by_qualname(plugin.PUNICA_WRAPPER) is LoragatePunicaWrapperCPU


def test_other_platforms_keep_their_wrapper(stock_platform: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuPlatform, "is_cpu", lambda self: False)
    assert not vllm.platforms.current_platform.is_cpu()
    plugin.register()
    assert CpuPlatform.get_punica_wrapper() == STOCK


def test_the_entry_point_leads_to_register() -> None:
    found = entry_points(group="vllm.general_plugins", name="loragate")
    assert [point.value for point in found] == ["server.engine.plugin:register"]


@pytest.mark.slow
def test_a_fresh_process_of_vllm_finds_what_is_ours() -> None:
    """The plugin, which the switch leaves out, and the scheduler, by its dotted name."""
    code = (
        "import os, sys, server.engine.plugin as plugin\n"
        "assert not {'vllm', 'torch'} & set(sys.modules), 'the plugin imports too much'\n"
        "os.environ.update(plugin.STOCK_ENVIRONMENT)\n"
        "import vllm.plugins, vllm.platforms\n"
        "vllm.plugins.load_general_plugins()\n"
        "print(vllm.platforms.current_platform.get_punica_wrapper())\n"
        "del os.environ['VLLM_PLUGINS']\n"
        "vllm.plugins.plugins_loaded = False\n"
        "vllm.plugins.load_general_plugins()\n"
        "print(vllm.platforms.current_platform.get_punica_wrapper())\n"
        "from vllm.utils.import_utils import resolve_obj_by_qualname as find\n"
        "from vllm.v1.core.sched.async_scheduler import AsyncScheduler\n"
        "found = find('server.engine.scheduling.scheduler.TenantScheduler')\n"
        "assert issubclass(found, AsyncScheduler), found\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd="/",
        env=dict(os.environ) | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [STOCK, plugin.PUNICA_WRAPPER]


@pytest.mark.parametrize(
    "name",
    [
        "update_metadata",
        "add_shrink",
        "add_expand",
        "add_lora_embedding",
        "add_lora_linear",
        "add_lora_logits",
    ],
)
def test_our_methods_take_what_vllm_passes(name: str) -> None:
    theirs = list(inspect.signature(getattr(PunicaWrapperABC, name)).parameters)
    ours = list(inspect.signature(getattr(LoragatePunicaWrapperCPU, name)).parameters)
    assert [parameter for parameter in ours if parameter in theirs] == theirs


def test_vllm_asks_for_nothing_that_we_do_not_know() -> None:
    assert PunicaWrapperABC.__abstractmethods__ == {
        "update_metadata",
        "add_shrink",
        "add_expand",
        "add_lora_embedding",
        "add_lora_linear",
        "add_lora_logits",
        "apply_lora_full_linear",
    }
    assert list(inspect.signature(PunicaWrapperCPU.__init__).parameters) == [
        "self",
        "max_num_batched_tokens",
        "max_batches",
        "device",
        "kwargs",
    ]


def test_vllm_still_writes_adapters_in_place() -> None:
    """`weights` moves the storage of these tensors; that holds while vLLM only writes through them."""
    source = inspect.getsource(BaseLinearLayerWithLoRA.set_lora)
    assert "self.lora_a_stacked[0][index, 0, : lora_a.shape[0], : lora_a.shape[1]].copy_(" in source
    assert "self.lora_b_stacked[0][index, 0, : lora_b.shape[0], : lora_b.shape[1]].copy_(" in source
    assert "self.lora_a_stacked[s_index][index] = 0" in inspect.getsource(BaseLinearLayerWithLoRA.reset_lora)
    assert list(inspect.signature(BaseLayerWithLoRA.set_lora).parameters) == [
        "self",
        "index",
        "lora_a",
        "lora_b",
    ]
