"""The settings of the base model, of the address and of the engine: the first part of the server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.config.json_settings import JsonObject

ToolStrictLevel = Literal["forced", "auto", "function", "parameter"]


class EngineSettings(BaseSettings):
    """A part of `server.config.settings.Settings`, which says how the values are found."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    model: str = ""
    """The base model: a local folder or a Hugging Face id. Not needed with --demo."""
    served_model_name: str = ""
    """The public name of the base model. Default: the value of --model."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port to listen on; 0 chooses a free port and prints it."""
    tls_cert: Annotated[Path | None, Field(json_schema_extra={"vllm_flag": "--ssl-certfile"})] = None
    """File with the server's certificate and its chain (PEM), for HTTPS. Read again when it changes."""
    tls_key: Annotated[Path | None, Field(json_schema_extra={"vllm_flag": "--ssl-keyfile"})] = None
    """File with the certificate's private key (PEM, not encrypted)."""
    demo: bool = False
    """Serve the embedded model with tenants acme and globex and well-known keys. Loopback only."""

    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Maximum length of prompt plus answer, in tokens. Default: the value in the model's config."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the device's memory that the engine may use; on a CPU, share of the memory that is free at start."""
    kv_cache_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    """Size of the KV cache in bytes. Default: what --gpu-memory-utilization leaves (on a CPU at most 4 GiB)."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 64
    """Maximum number of sequences in one batch."""
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tokens in one step. Default: vLLM's."""
    max_loras: Annotated[int, Field(ge=1)] = 8
    """Maximum number of different adapters in one batch (LoRA slots on the device)."""
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """Maximum rank of an adapter. Every LoRA slot has the size for this rank."""
    max_cpu_loras: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of adapters in main memory, in addition to the LoRA slots. Default: 4 times --max-loras."""
    dtype: str = "auto"
    """Data type of weights and activations. auto: float32 on a CPU without AMX or AVX512-BF16."""
    quantization: str | None = None
    """Quantization method of the base model's weights, for example awq. Default: the value in the model's config."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Number of devices that share the model."""
    tool_call_parser: str = "auto"
    """Parser for tool calls, by vLLM's name. auto: hermes for Qwen models, none for others."""
    tool_strict_level: ToolStrictLevel = "forced"
    """Which tool calls match their tool's schema; forced: those that tool_choice forces. The rest: vLLM's levels."""
    chat_template: Path | None = None
    """File with a chat template to use instead of the tokenizer's own."""
    allow_control_tokens: bool = False
    """Read control tokens in callers' messages, such as <|im_end|>, as control tokens. Default: they are text."""
    engine_args: JsonObject = {}
    """Further engine arguments of vLLM, as a JSON object: '{"block_size": 32}'."""
