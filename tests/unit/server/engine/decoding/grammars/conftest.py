"""One compiler for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vllm.usage.usage_lib import UsageContext

from server.config.settings import Settings
from server.engine.args import engine_args
from server.engine.decoding import tool_schemas
from server.engine.decoding.grammars.worker import Compiler
from tests.unit.server.engine.decoding.grammars.grammar_rig import GrammarRig


@pytest.fixture(scope="session")
def engine_config() -> Any:
    arguments = engine_args(Settings(demo=True))
    return arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


@pytest.fixture(scope="session")
def compiler(engine_config: Any) -> Compiler:
    """The demo model's, as a worker has it."""
    return Compiler(engine_config)


@pytest.fixture(scope="session")
def grammar_rig(tmp_path_factory: pytest.TempPathFactory) -> GrammarRig:
    return GrammarRig(tmp_path_factory.mktemp("grammars"))


@pytest.fixture
def rig(grammar_rig: GrammarRig) -> Iterator[GrammarRig]:
    """The rig, with tools as `--tool-strict-level forced` has them."""
    tool_schemas.follow("forced")
    yield grammar_rig
    tool_schemas.follow("auto")
