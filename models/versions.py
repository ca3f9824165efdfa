"""The versions that a result depends on."""

import platform
from importlib.metadata import version

from dxray import __version__


def versions() -> dict[str, str]:
    """Of dxray, torch and Python, by name."""
    return {
        "dxray": __version__,
        "torch": version("torch"),  # torch itself takes a second to load
        "python": platform.python_version(),
    }
