"""Creates what generates on the engine that serves, through the gate and into the ledger as requests do."""

from __future__ import annotations

from dataclasses import replace

from adapters.registry import Registry
from sampling.limits import Limits
from server.app.engine_lifecycle import EngineLifecycle
from server.background.evaluations.data_files import DataFiles
from server.background.evaluations.evaluator import Evaluator
from server.background.evaluations.judges import Judges
from server.background.evaluations.requests import BackgroundRequests
from server.background.evaluations.service import EvaluationService
from server.background.shadows.texts import TextKeeper
from server.background.shadows.traffic import ShadowTraffic
from server.config.judges import judge_keys, judges_of
from server.config.settings import Settings
from server.engine.base_model import BaseModel
from server.request.request_service import RequestService


def create(
    settings: Settings,
    registry: Registry,
    base: BaseModel,
    engine: EngineLifecycle,
    requests: RequestService,
    limits: Limits,
) -> tuple[EvaluationService, ShadowTraffic]:
    """Evaluations and shadow traffic; `limits` are the operator's.

    Raises: SettingsError: a judge's key cannot be read.
    """
    own_requests = BackgroundRequests(replace(requests, handle=engine.generate_tokens))
    texts = TextKeeper(registry, engine.prompts, base.rules.base_folder, limits)
    shadows = ShadowTraffic(registry, own_requests, engine.admission, texts)
    engine.gate.shadow = shadows.begin
    files = DataFiles(settings.home / "evaluations")
    files.drop_parts()
    judges = judges_of(settings)
    evaluator = Evaluator(
        registry.evaluations,
        own_requests,
        files,
        engine.prompts,
        limits,
        engine.max_model_len,
        Judges(judges, judge_keys(judges)),
    )
    return EvaluationService(registry, evaluator, settings, base), shadows
