"""The shipped accelerate configurations: accelerate itself reads them; two processes train as one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

_ROOT = Path(__file__).parents[5]
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


_PROGRAM = """
import sys
from pathlib import Path
import torch
from adapters.training.config import TrainingConfig
from adapters.training.training_run import train
torch.set_num_threads(1)
base, data, out = sys.argv[1:]
train(TrainingConfig(base=Path(base), data=Path(data), out=Path(out), rank=4, alpha=8, batch_samples=8, max_steps=4,
                     learning_rate=1e-2, held_out_share=0.0, measure=0, dtype="float32"))
"""


@pytest.mark.long
def test_two_processes_train_as_one_does(tiny_base: Path, chats: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    logs = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        call = [
            *launch, "--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", "0", str(program), str(tiny_base), str(chats), str(out),
        ]  # fmt: skip
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(call, capture_output=True, text=True, check=False, timeout=240, env=env)
        assert ended.returncode == 0, ended.stderr[-3000:]
        logs.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
    one, two = logs
    assert [row["step"] for row in two] == [1, 2, 3, 4]
    # The same samples make up a step, shared out: losses and gradients are those of one process.
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)
    assert [row["grad_norm"] for row in two] == pytest.approx([row["grad_norm"] for row in one], rel=1e-3)
    assert (tmp_path / "2" / "training.json").is_file()
