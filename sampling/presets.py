"""Named sets of defaults; a request selects one in its body (`preset`) or in the header `x-loragate-preset`."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from sampling.defaults import Layer
from sampling.errors import InvalidPreset, UnknownPreset

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

BUILT_IN: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "factual": {"temperature": 0.0, "max_tokens": 256},
        "chat": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 512},
        "creative": {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.0, "max_tokens": 1024},
        "code": {"temperature": 0.2, "top_p": 0.9, "max_tokens": 1024},
        "function_calling": {"temperature": 0.0, "max_tokens": 256},
    }
)


@dataclass(frozen=True, slots=True)
class Presets:
    """The presets of this server, by name. `Presets()` holds the built-in ones.

    Raises:
        InvalidPreset: a name is not lower-case letters, digits, `_` and `-`, from 1 to 64.
        InvalidDefault: a preset sets an unknown option or an invalid value.
    """

    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: BUILT_IN)
    layers: Mapping[str, Layer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.definitions:
            if not _NAME.fullmatch(name):
                raise InvalidPreset(
                    f"The preset name {name!r} must be a lower-case letter followed by up to 63 lower-case "
                    "letters, digits, '_' or '-'."
                )
        layers = {name: Layer(f"preset:{name}", fields) for name, fields in self.definitions.items()}
        object.__setattr__(self, "layers", MappingProxyType(layers))
        frozen = {name: layer.defaults for name, layer in layers.items()}
        object.__setattr__(self, "definitions", MappingProxyType(frozen))

    def with_custom(self, custom: Mapping[str, Mapping[str, Any]]) -> Presets:
        """These presets and the operator's own presets; the latter replace presets of the same name.

        Raises:
            InvalidPreset, InvalidDefault: as for the class.
        """
        return Presets({**self.definitions, **custom})

    def listed(self) -> dict[str, dict[str, Any]]:
        """Name → options of all presets, as plain JSON data."""
        return {name: copy.deepcopy(dict(fields)) for name, fields in self.definitions.items()}

    def find(self, name: str) -> Layer:
        """The preset's layer.

        Raises:
            UnknownPreset: no preset has this name; the error contains the nearest name and the list.
        """
        layer = self.layers.get(name)
        if layer is None:
            nearest = difflib.get_close_matches(name[:64].lower(), self.layers, n=1)
            raise UnknownPreset(name, nearest[0] if nearest else None, tuple(self.layers))
        return layer
