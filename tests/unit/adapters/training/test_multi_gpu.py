"""The shipped accelerate configurations: accelerate itself reads them; two processes train as one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

_ROOT = Path(__file__).parents[4]
_CONFIGS = _ROOT / "deploy" / "training"
_KINDS = {
    "ddp.yaml": DistributedType.MULTI_GPU,
    "fsdp.yaml": DistributedType.FSDP,
    "deepspeed-zero2.yaml": DistributedType.DEEPSPEED,
    "deepspeed-zero3.yaml": DistributedType.DEEPSPEED,
}


def test_every_configuration_is_listed() -> None:
    assert {path.name for path in _CONFIGS.glob("*.yaml")} == set(_KINDS)


@pytest.mark.parametrize("name", list(_KINDS))
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(_CONFIGS / name))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == _KINDS[name]
    assert config.num_processes == 2
    # NOTE: the trainer casts the base itself; accelerate's autocast would cast the adapter too.
    assert config.mixed_precision == "no"
    if name == "fsdp.yaml":
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=config.fsdp_config["fsdp_version"],
            auto_wrap_policy=config.fsdp_config["fsdp_auto_wrap_policy"],
            reshard_after_forward=config.fsdp_config["fsdp_reshard_after_forward"],
            state_dict_type=config.fsdp_config["fsdp_state_dict_type"],
        )
        assert plugin.fsdp_version == 2
    if config.deepspeed_config:
        assert config.deepspeed_config["zero_stage"] == int(name[-6])
