"""The sampling options of a request, from the layers of server, model, adapter, tenant and request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampling.defaults import Layer, model_defaults
from sampling.endpoints import Endpoint
from sampling.errors import ConfigurationError, InvalidParameter
from sampling.limits import DEFAULT_LIMITS, NO_LIMITS, Limits, tighten
from sampling.presets import Presets
from sampling.resolution import NO_DEFAULTS, Resolved, resolve
from server.config.settings import Settings
from server.errors import SettingsError


@dataclass(frozen=True, slots=True)
class SamplingResolver:
    """The server's layers, presets and limits, which hold for every request."""

    server: Layer
    model: Layer
    presets: Presets
    limits: Limits
    adjusts: bool
    """Whether the engine can steer answers out of loops (`--repetition-adjustment`)."""

    @classmethod
    def from_settings(cls, settings: Settings, generation_config: Mapping[str, Any]) -> SamplingResolver:
        """Make one from the operator's settings and the base model's generation config.

        Raises:
            SettingsError: a default, preset or limit is not valid.
        """
        try:
            return cls(
                Layer("server", settings.sampling_defaults),
                model_defaults(generation_config),
                Presets().with_custom(settings.presets),
                Limits(**{**DEFAULT_LIMITS, **settings.limits}),
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
        """The request's body with all defaults filled in; `limits` are the tenant's.

        Raises:
            RequestError: a value is wrong, above a limit, or not supported by this server.
        """
        resolved = self._layered(body, endpoint, adapter, tenant, limits, preset_header)
        if resolved.repetition == "adjust" and not self.adjusts:
            origin = resolved.origins["repetition"]
            raise InvalidParameter(
                "repetition",
                "adjust",
                f"'off' or 'stop' (set by {origin}): this server was started without --repetition-adjustment",
            )
        return resolved

    def limits_for(self, tenant: Limits) -> Limits:
        """The stricter of the tenant's and the server's limits."""
        return tighten(tenant, self.limits)

    def describe(self, adapter: Layer, tenant: Layer, limits: Limits) -> dict[str, dict[str, Any]]:
        """The options of a chat request that sets none: {option: {"value", "from"}}."""
        return self._layered({}, Endpoint.CHAT, adapter, tenant, limits).effective(Endpoint.CHAT)

    def _layered(
        self,
        body: Mapping[str, Any],
        endpoint: Endpoint,
        adapter: Layer,
        tenant: Layer,
        limits: Limits,
        preset_header: str | None = None,
    ) -> Resolved:
        return resolve(
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
