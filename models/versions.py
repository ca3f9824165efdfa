"""The versions that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Of dxray, torch and Python, by name."""
    return {"dxray": _version("dxray"), "torch": _version("torch"), "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)  # torch itself takes a second to load
    except PackageNotFoundError:
        return "unknown"  # used from a folder, not installed
