"""Conditions of promotions: a version gets traffic only if the figures of its evaluations are good enough."""
