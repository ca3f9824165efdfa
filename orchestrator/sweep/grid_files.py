"""Grids in files, YAML or TOML: a person's own, and the presets that come with dxray.

A file holds values that all its trials share and, under `grids`, sub-grids that each override them:

    net: densenet
    dropout: [0.5, 0.3]
    grids:
      - {batch_size: 64, filters: [4, 16, 32]}
      - {batch_size: 256, filters: 4}
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.grid import Grid, checked

PRESETS = Path(__file__).parent / "presets"


class GridFile(NamedTuple):
    """The comments that a file opens with (a preset's say what it costs and gives), and its grids."""

    header: str
    grids: list[dict[str, list[Any]]]


def presets() -> dict[str, Path]:
    """The files of the grids that come with dxray, by their names."""
    return {file.stem: file for file in sorted(PRESETS.glob("*.yaml"))}


def preset(name: str) -> Path:
    """UserError where no preset is called so."""
    known = presets()
    if name not in known:
        raise UserError(f"no preset is called '{name}'; known are: {', '.join(known)}")
    return known[name]


def read_grid(path: Path, overrides: Grid | None = None) -> GridFile:
    """The grids of a file, in its order.

    Args:
        overrides: parameters that replace the file's values in every sub-grid.

    Raises:
        UserError: the file cannot be read, is malformed, or a name or value in it is none of a grid's.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else "it is no UTF-8 text"
        raise UserError(f"the grid '{path}' cannot be read ({why}); give a YAML or TOML file") from None
    content = _parsed(path, text)
    parts = content.pop("grids", [{}])
    if not isinstance(parts, list) or not parts or not all(isinstance(part, Mapping) for part in parts):
        raise UserError(
            f"{path}: 'grids' must be a list of sub-grids, one at least, each of parameters with their values"
        )
    try:
        whole = [content | dict(part) | dict(overrides or {}) for part in parts]
        grids = [{name: checked(name, values) for name, values in grid.items()} for grid in whole]
    except UserError as wrong:
        raise UserError(f"{path}: {wrong}") from None
    return GridFile(_header(text), grids)


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        if path.suffix in (".yaml", ".yml"):
            content = yaml.load(text, Loader=_Loader)
        elif path.suffix == ".toml":
            content = tomllib.loads(text)
        else:
            raise UserError(f"the grid '{path}' must be a file that ends in .yaml, .yml or .toml")
    except yaml.YAMLError as wrong:
        mark = getattr(wrong, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"the grid '{path}' is no valid YAML{where}: {getattr(wrong, 'problem', wrong)}") from None
    except tomllib.TOMLDecodeError as wrong:
        raise UserError(f"the grid '{path}' is no valid TOML: {wrong}") from None
    if not isinstance(content, dict):
        raise UserError(f"the grid '{path}' must hold parameters with their values, such as 'filters: [8, 16]'")
    return content


def _header(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


class _Loader(yaml.SafeLoader):
    """Safe loading, with `1e-3` a number (YAML 1.1 takes it for text) and no key twice (YAML takes the last)."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: list[Any] = []  # a key may be anything; what cannot be one is refused below
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' comes twice", key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)
