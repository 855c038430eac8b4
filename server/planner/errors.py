"""Errors of the planner.

PlannerError
├── ModelUnknown     no config can be had for this name
├── ModelUnplanned   the config is there, and describes something the planner has no arithmetic for
└── InvalidPlanRequest      what was asked does not make a plan
"""

from __future__ import annotations

from server.errors import LoragateError


class PlannerError(LoragateError):
    """No plan can be made."""


class ModelUnknown(PlannerError):
    """The model's config cannot be found."""


class ModelUnplanned(PlannerError):
    """The planner has no arithmetic for this model."""


class InvalidPlanRequest(PlannerError):
    """What was asked does not make a plan."""
