"""The server's own part in decoding: its layer, the model's, its presets and limits, and who may steer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampling.defaults import Layer, model_defaults
from sampling.endpoints import Endpoint
from sampling.errors import ConfigurationError, InvalidParameter
from sampling.layers import NO_DEFAULTS, Resolved, resolve
from sampling.limits import NO_LIMITS, Limits, tighten
from sampling.presets import Presets
from server.config.settings import Settings
from server.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Decoding:
    """What every request's decoding options are resolved with."""

    server: Layer
    model: Layer
    presets: Presets
    limits: Limits
    adjusts: bool
    """Whether the engine can steer answers out of loops (`--repetition-adjustment`)."""

    @classmethod
    def of(cls, settings: Settings, generation_config: Mapping[str, Any]) -> Decoding:
        """From the operator's settings and the base model's generation config.

        Raises:
            SettingsError: a default, preset or limit that no request could use.
        """
        try:
            return cls(
                Layer("server", settings.sampling_defaults),
                model_defaults(generation_config),
                Presets().with_custom(settings.presets),
                Limits(**settings.limits) if settings.limits else NO_LIMITS,
                settings.repetition_adjustment,
            )
        except TypeError as error:
            raise SettingsError(f"--limits: {str(error).partition('() ')[2] or error}") from error
        except ConfigurationError as error:
            raise SettingsError(str(error)) from error

    def resolve(
        self,
        body: Mapping[str, Any],
        endpoint: Endpoint,
        *,
        adapter: Layer = NO_DEFAULTS,
        tenant: Layer = NO_DEFAULTS,
        limits: Limits = NO_LIMITS,
        preset_header: str | None = None,
    ) -> Resolved:
        """The request with all that holds for it; `limits` are the tenant's.

        Raises:
            RequestError: a value that is wrong, above a limit, or that this server cannot do.
        """
        resolved = resolve(
            body,
            endpoint=endpoint,
            model=self.model,
            server=self.server,
            adapter=adapter,
            tenant=tenant,
            presets=self.presets,
            preset_header=preset_header,
            limits=self.limits_for(limits),
        )
        if resolved.repetition == "adjust" and not self.adjusts:
            by = resolved.origins["repetition"]
            raise InvalidParameter(
                "repetition",
                "adjust",
                f"'off' or 'stop' (set by {by}): this server was started without --repetition-adjustment",
            )
        return resolved

    def limits_for(self, tenant: Limits) -> Limits:
        """The tenant's limits within the server's."""
        return tenant if self.limits is NO_LIMITS else tighten(tenant, self.limits)

    def shown(self, adapter: Layer, tenant: Layer, limits: Limits) -> dict[str, dict[str, Any]]:
        """What holds for a chat request that names no option: {option: {"value", "from"}}."""
        resolved = resolve(
            {},
            endpoint=Endpoint.CHAT,
            model=self.model,
            server=self.server,
            adapter=adapter,
            tenant=tenant,
            presets=self.presets,
            preset_header=None,
            limits=self.limits_for(limits),
        )
        return resolved.effective(Endpoint.CHAT)
