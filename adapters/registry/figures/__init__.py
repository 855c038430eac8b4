"""Figures of versions: evaluations, users' feedback, and their comparison with the version that serves."""
