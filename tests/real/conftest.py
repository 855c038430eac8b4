"""A server with a real model, from the folder that LORAGATE_REAL_MODEL names; without it these tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from custom_server import custom_server

from tests.real.real_answers import RealModel

VARIABLE = "LORAGATE_REAL_MODEL"
#: float32, so that the noise is small; the rest is what fits beside the reference in 16 GiB.
FLAGS = ("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16", "--max-lora-rank", "16")
FLAGS += ("--kv-cache-memory-bytes", "536870912")
TENANT = {"name": "real"}


@pytest.fixture(scope="session")
def folder() -> Path:
    """The real base model's folder."""
    if VARIABLE not in os.environ:
        pytest.skip(
            f"{VARIABLE} does not name the folder of a real model, such as Qwen2.5-Coder-0.5B-Instruct."
        )
    return Path(os.environ[VARIABLE])


@pytest.fixture(scope="session")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client with an operator's key."""
    with custom_server(folder, tmp_path_factory.mktemp("real"), *FLAGS) as (_, client):
        client.post("/admin/v1/tenants", json=TENANT).raise_for_status()
        yield client


@pytest.fixture(scope="session")
def real(folder: Path) -> RealModel:
    """The same model in transformers, in float32."""
    return RealModel(folder)
