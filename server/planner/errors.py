"""Errors of the planner.

PlannerError
├── ModelUnknown         the model's config cannot be found
├── ModelUnplanned       the planner does not support the kind of model that the config describes
└── InvalidPlanRequest   the request's values cannot be planned
"""

from __future__ import annotations

from server.errors import LoragateError


class PlannerError(LoragateError):
    """No plan can be made."""


class ModelUnknown(PlannerError):
    """The model's config cannot be found."""


class ModelUnplanned(PlannerError):
    """The planner does not support this kind of model."""


class InvalidPlanRequest(PlannerError):
    """The request's values cannot be planned."""
