"""The file that `loragate deploy` reads: how many servers a Ray cluster runs, on what, and with which settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from server.config.config_file import nearest_name
from server.config.settings import Settings, load
from server.errors import SettingsError

#: What each server gets from the cluster, or what belongs to its front.
_NOT_HERE = ("host", "port", "data_dir", "tls_cert", "tls_key", "replica_token", "replica_name")
Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Table):
    """What Ray reserves for each server; a machine has room for as many as it has of this."""

    num_gpus: float = Field(1, ge=0)
    num_cpus: float = Field(1, ge=0)
    memory: int | None = Field(None, ge=0)
    """Bytes."""
    accelerator_type: str | None = None
    """As `ray.util.accelerators` names it, such as H200."""
    resources: dict[str, float] = {}
    """Names of your own, as `ray start --resources` gives them to a machine."""


class Autoscaling(_Table):
    """Limits, bounds and times of `autoscaling.servers_needed`."""

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(ge=1)
    waiting: float = Field(4, gt=0)
    """More requests than this wait on a server in the mean: servers are added."""
    kv_use: Share = 0.85
    """The same for the used share of the KV caches."""
    kv_use_after: Share = 0.6
    """A server is removed when nothing waits and the others would then use at most this share."""
    up_after_s: Seconds = 30
    """So long the load must be high."""
    down_after_s: Seconds = 600
    """So long the load must be low."""

    @model_validator(mode="after")
    def _check(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}.")
        if self.kv_use_after >= self.kv_use:
            raise ValueError(
                f"kv_use_after {self.kv_use_after} must be below kv_use {self.kv_use}: otherwise a server that was "
                "removed would be added again."
            )
        return self


class ClusterFile(_Table):
    """All of the file."""

    replicas: int | None = Field(None, ge=1)
    """Servers; or give the table autoscaling."""
    data_dir: Path
    """Folder on each machine, in which each of its servers has a folder."""
    host: str = ""
    """Address at which the servers listen and the fronts reach them; by default the machine's, as Ray knows it."""
    generation: str = ""
    """A new text replaces all servers, also where nothing else has changed."""
    rollout_percent: int = Field(20, ge=1, le=100)
    """Share of the servers that are replaced at a time, at least one."""
    surge_percent: int = Field(0, ge=0, le=100)
    """Servers above `replicas` while they are replaced: new ones are ready before old ones stop."""
    start_timeout_s: float = Field(1800, gt=0)
    """How long a server may take to be ready."""
    resources: Resources = Resources()
    runtime_env: dict[str, Any] = {}
    """Ray's environment of the servers, such as `py_executable` or `image_uri`: how a new program reaches them."""
    autoscaling: Autoscaling | None = None
    server: dict[str, Any]
    """Settings of `loragate serve`."""

    @model_validator(mode="after")
    def _check(self) -> ClusterFile:
        if (self.replicas is None) == (self.autoscaling is None):
            raise ValueError("give either replicas or the table [autoscaling].")
        if not self.data_dir.is_absolute():
            raise ValueError(f"data_dir {self.data_dir} must begin with /: it is a folder on each machine.")
        return self


def read_cluster_file(path: Path) -> ClusterFile:
    """The file, with settings that servers accept. Raises: SettingsError: the message names file, key and value."""
    try:
        found = ClusterFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in _faults(error))) from error
    _check_server(path, found.server)
    load(found.server)
    return found


def _faults(error: ValidationError) -> list[str]:
    lines = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"]))
        lines.append(f"{key}: {fault['msg']}" if key else fault["msg"].removeprefix("Value error, "))
    return lines


def _check_server(path: Path, given: dict[str, Any]) -> None:
    for name in given:
        if name not in Settings.model_fields:
            nearest = nearest_name(name, Settings.model_fields)
            raise SettingsError(f"{path}: server.{name} is not a setting. Did you mean {nearest}?")
        if name in _NOT_HERE:
            raise SettingsError(f"{path}: server.{name} cannot be given here; the cluster decides it.")
        if Settings.model_fields[name].repr is False and name != "database_url":
            raise SettingsError(
                f"{path}: server.{name} is a secret, and Ray shows what it gets to everybody who reaches its "
                f"dashboard; set LORAGATE_{name.upper()} or LORAGATE_{name.upper()}_FILE on the machines."
            )
    _check_database(path, str(given.get("database_url", "")))
    if not given.get("depot"):
        raise SettingsError(
            f"{path}: server.depot is missing: the servers fetch adapters from it; give a bucket (s3://…) or a "
            "folder that all machines share (file:///…)."
        )


def _check_database(path: Path, url: str) -> None:
    if not url.startswith("postgresql"):
        raise SettingsError(
            f"{path}: server.database_url must name a PostgreSQL that all servers reach, such as "
            "postgresql+asyncpg://loragate@db.internal/loragate."
        )
    try:
        has_password = bool(make_url(url).password)
    except ArgumentError as error:
        raise SettingsError(f"{path}: server.database_url is not a URL of SQLAlchemy.") from error
    if has_password:
        raise SettingsError(
            f"{path}: server.database_url has a password, and Ray shows what it gets to everybody who reaches its "
            "dashboard; leave it out and set PGPASSWORD on the machines."
        )
