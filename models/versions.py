"""The versions that a result depends on."""

from dxray import __version__


def versions() -> dict[str, str]:
    """Of dxray, torch and Python, by name."""
    import platform  # this and what follows take longer to load than `dxray --help` to run
    from importlib.metadata import version

    return {
        "dxray": __version__,
        "torch": version("torch"),  # torch itself takes a second to load
        "python": platform.python_version(),
    }
