"""The settings of the server, in one flat frozen record; the text under a field is its `--help`.

A value comes from the first of: flag, environment variable `LORAGATE_<FIELD>` (or the file that
`LORAGATE_<FIELD>_FILE` names), the file named by `--config` (TOML, with the fields as keys), the default. Only this
folder reads settings from the environment; `server.engine.process` passes it on to the engine's
processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

import demo
from server.config.combinations import check_combinations
from server.config.config_file import ConfigFile, fault_sentences
from server.config.engine_settings import EngineSettings
from server.config.json_settings import JsonObject
from server.config.logs import LogFormat
from server.config.origins import Origins
from server.config.secret_files import FileVariables
from server.config.service_links import service_links
from server.config.sign_in import SignInRules
from server.config.variables import ENV_PREFIX, environment_without, refuse_unknown
from server.errors import SettingsError

DEFAULT_DATA_DIR = Path("~/.local/share/loragate")


class Settings(EngineSettings, BaseSettings):
    """The settings of `loragate serve`. Names and meanings are vLLM's wherever vLLM has the flag."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    sampling_defaults: JsonObject = {}
    """Default decoding options, as a JSON object; adapter, tenant, preset and request override them."""
    limits: JsonObject = {}
    """Maximum of max_tokens, n, top_logprobs, stop_count and prompt_tokens in one request, as a JSON object."""
    presets: JsonObject = {}
    """Further decoding presets, as a JSON object: '{"brief": {"max_tokens": 64}}'."""
    repetition_adjustment: bool = False
    """Allow `repetition: "adjust"`, which steers answers out of loops; this makes every request slightly slower."""
    repetition_policy: JsonObject = {}
    """Thresholds of loop detection and steering, as a JSON object: '{"share": 0.7, "most_temperature": 0.9}'."""

    data_dir: Path = DEFAULT_DATA_DIR
    """Folder for adapters and the default database."""
    database_url: Annotated[str, Field(repr=False)] = ""
    """URL of the registry's database. Default: SQLite in --data-dir. PostgreSQL: postgresql+asyncpg://…"""
    depot: str = ""
    """Where servers on one registry share adapters: 's3://bucket/folder', 'file:///shared'. Default: --data-dir."""
    store_max_bytes: Annotated[int, Field(ge=1)] | None = None
    """With --depot: maximum size of the copies in --data-dir, in bytes; those used least recently are removed."""
    prove_on: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Servers that load and probe a version before it gets traffic; all: those that serve. Needs PostgreSQL."""
    wait_for_database_s: Annotated[float, Field(ge=0)] = 60.0
    """At the start: how long to wait for a database that does not answer, in seconds; then exit code 1."""
    registry_grace_s: Annotated[float, Field(ge=0)] = 60.0
    """How long keys and models in use, also revoked ones, are served while the database is away, in seconds."""
    tenant_sources: str = "hf://"
    """Comma-separated source prefixes for tenant admins, such as 's3://adapters/{tenant}/' with the tenant's name."""
    adapter_wait_s: Annotated[float, Field(gt=0)] = 30.0
    """Maximum time that a request waits for its adapter, or a new adapter for a starting engine, in seconds."""
    lora_slot_wait_s: Annotated[float, Field(gt=0)] = 2.0
    """Maximum time that a request waits for a LoRA slot while other adapters use all of them, in seconds."""
    canary_max_errors: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of failed answers above which a canary is rolled back; 1 disables this check."""
    canary_max_empty: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of empty answers above which a canary is rolled back; 1 disables this check."""
    canary_max_repeating: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of answers that were stopped or steered because of repetition above which a canary is rolled back."""
    canary_min_answers: Annotated[int, Field(ge=1)] = 10
    """Minimum number of a canary's answers before these shares are checked."""
    canary_max_disliked: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of "down" ratings above which a canary is rolled back; 1 disables this check."""
    canary_min_ratings: Annotated[int, Field(ge=1)] = 5
    """Minimum number of a canary's ratings before their share is checked."""
    canary_max_slowdown: Annotated[float, Field(ge=0)] = 0.0
    """How many times as long as the stable version's a canary's answers may take before it is rolled back, rounded up
    to a quarter of a doubling; 0 disables this check."""
    canary_false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest probability that a split loses a canary that is not above a limit or not worse than the stable version.
    A smaller one needs more answers for each decision."""
    judges: Annotated[JsonObject, Field(repr=False)] = {}
    """Models that may judge evaluations, as a JSON object: '{"large": {"url": …, "model": …, "key_file": …}}'."""
    keep_feedback_messages: bool = False
    """Keep the chats that clients send with feedback, for training; otherwise such feedback is refused."""
    records: str = ""
    """Where tenants' records (redacted requests and answers) go: a folder, 's3://bucket/folder'. Default: nowhere."""
    records_keep_days: Annotated[int, Field(ge=1)] = 30
    """How long records are kept, in days."""
    records_max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Maximum size of one tenant's records, in bytes; the oldest ones are removed."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """Currency of prices and budgets, by its ISO 4217 code; it only names them."""
    budget_alerts: str = "80,100"
    """Percents of budgets at which webhooks are told, with commas."""
    webhook_networks: str = ""
    """Networks beside the public internet that webhooks may reach, with commas: 10.1.0.0/16. Default: none."""
    max_blends: Annotated[int, Field(ge=0)] = 4
    """Maximum number of blends that one tenant's requests make with `adapters` and use at the same time, and at most
    half of the adapters that the engine holds; 0 refuses such requests."""
    blends_per_minute: Annotated[int, Field(ge=1)] = 12
    """Maximum number of new blends that one tenant's requests make in a minute."""
    max_adapter_bytes: Annotated[int, Field(ge=1)] = 2 << 30
    """Maximum size of an adapter's files, in bytes."""
    allowed_origins: Origins = []
    """Origins whose pages may call models from a browser (CORS), as a JSON list; '["*"]' for all. Default: none."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Maximum size of a request body, in bytes."""
    read_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Maximum time in which a request's head, or its JSON body, must arrive, in seconds."""
    shutdown_timeout: Annotated[float, Field(ge=0)] = 30.0
    """After SIGTERM: time that running answers have to finish, in seconds."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """After SIGTERM: time in which new requests are still accepted while /ready already answers 503, in seconds."""
    engine_stall_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds without a step after which the engine is restarted; longer than any step and any load. 0: never."""
    restart_backoff_s: Annotated[float, Field(ge=0)] = 1.0
    """Pause before a dead engine is restarted, in seconds; doubles with every consecutive failure, up to 60."""
    otlp_traces_endpoint: str = ""
    """OTLP collector for the spans of loragate and vLLM, for example http://collector:4317. Default: no tracing."""
    log_prompts: bool = False
    """Write prompts to the access log; of a large one only its size. Default: never."""
    metrics_label_sets: Annotated[int, Field(ge=1)] = 100
    """Maximum number of tenants, and of adapter versions, with their own series on /metrics; others share `other`."""
    public_url: str = ""
    """URL at which browsers reach this server, for example https://models.example.org; sign-in needs it."""
    sign_in_issuer: str = ""
    """Issuer URL of the OpenID Connect provider at which people sign in to the console. Default: keys only."""
    sign_in_client_id: str = ""
    """Client id of this server at the provider."""
    sign_in_client_secret: Annotated[str, Field(repr=False)] = ""
    """Client secret of this server at the provider; keep it in a file (LORAGATE_SIGN_IN_CLIENT_SECRET_FILE)."""
    sign_in_scopes: str = "openid profile email"
    """Scopes that the provider is asked for, with spaces; they decide which claims it sends."""
    sign_in_roles: SignInRules = []
    """Who may do what, as a JSON list of rules, of which the first that a person's claims match holds:
    '[{"claim": "groups", "value": "llm-operators", "role": "operator"}]'."""
    sign_in_name_claim: str = "email"
    """Claim that names a person in the log of changes; without it, and for an unverified email, the claim sub."""
    sign_in_hours: Annotated[float, Field(gt=0, le=168)] = 8.0
    """Hours after which a person must sign in again."""
    protect_metrics: bool = False
    """Require an operator's key for /metrics, which names all tenants and adapters."""
    replica_token: Annotated[str, Field(repr=False)] = ""
    """Secret with which a front asks this server what it holds; `serve --replicas` sets it. Default: nobody may."""
    replica_name: str = ""
    """This server's name among several behind a front, in every line of its log; the front's Ray sets it."""
    log_format: LogFormat = "auto"
    """Format of the log on stdout. auto: text on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of the records that are logged."""

    @model_validator(mode="after")
    def _check(self) -> Settings:
        check_combinations(self)
        return self

    @property
    def base_model(self) -> str:
        """Folder or hub id that the engine loads."""
        return str(demo.MODEL_DIR) if self.demo else self.model

    @property
    def base_model_name(self) -> str:
        """The base model's public name."""
        return self.served_model_name or (demo.SERVED_NAME if self.demo else self.model)

    @property
    def adapters_held(self) -> int:
        """Maximum number of adapters that the engine holds at the same time."""
        return self.max_cpu_loras or 4 * self.max_loras

    @property
    def home(self) -> Path:
        """The data folder; the demo has its own folder inside it."""
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
        to_serve: whether a model is required; commands that only use the registry need none.

    Raises:
        SettingsError: a value, key or variable cannot be used; the message names it and the next step.
    """
    ignored = service_links(os.environ)
    refuse_unknown(Settings, ignored)
    given = dict(flags)
    files = FileVariables(Settings, os.environ)
    sources: list[PydanticBaseSettingsSource] = [
        InitSettingsSource(Settings, given),
        environment_without(Settings, ignored),
        files,
    ]
    if config:
        sources.append(ConfigFile(Settings, config))
    try:
        settings = Settings(_build_sources=(tuple(sources), given))
    except ValidationError as error:
        raise SettingsError(fault_sentences(error, files.names)) from error
    if to_serve and not settings.demo and not settings.model:
        raise SettingsError("There is no model: give --model (a folder or a hub id), or --demo.")
    return settings
