"""Figures of versions: their evaluations, and their comparison with the version that serves."""
