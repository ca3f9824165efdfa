"""The versions that a result depends on."""


def versions() -> dict[str, str]:
    """Of dxray, torch and Python, by name."""
    import platform  # this and what follows take longer to load than `dxray --help` to run

    return {"dxray": _version("dxray"), "torch": _version("torch"), "python": platform.python_version()}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"  # used from a folder, not installed
