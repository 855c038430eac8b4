"""Metrics, traces and the state of the running server."""
