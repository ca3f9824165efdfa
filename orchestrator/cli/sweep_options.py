"""The options that `dxray sweep` and `dxray plan` share, and what they ask for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from dxray.orchestrator.cli.options import (
    DATA,
    GRID,
    ONCE,
    RESOURCES,
    SEARCH,
    Folder,
    Label,
    Source,
    Whole,
    class_names,
)
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.sweep.grid import PARAMETERS, Grid

if TYPE_CHECKING:
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.sweep.sweep import SweepConfig

GRIDS = Group(validator=mutually_exclusive)
_KINDS: dict[type, Any] = {int: Whole, float: float, bool: Literal["on", "off"], str: str}


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class Data:
    data: Annotated[Source | None, Parameter(show_default="synthetic")] = None
    """synthetic[:N] (drawn, not photographs), utkface:DIR, folder:DIR, parquet:FILE or hf:NAME_OR_DIR[:SPLIT]"""
    classes: str | None = None
    """names of the classes in the order of their labels, separated by commas"""
    label: Label = None
    size: Whole = 48
    """height and width that images are brought to"""
    validate: Annotated[list[str] | None, Parameter(metavar="NAME=SOURCE")] = None
    """also measure every net on these faces"""


@Parameter(name="*", group=GRID)
@dataclass(frozen=True)
class GridFile:
    preset: Annotated[str | None, Parameter(group=(GRID, GRIDS), metavar="NAME")] = None
    """a grid that comes with dxray; values given here replace its own"""
    grid: Annotated[Folder | None, Parameter(group=(GRID, GRIDS), metavar="FILE")] = None
    """the same from a YAML or TOML file of your own"""


if TYPE_CHECKING:
    Values = dict[str, list[Any]]
else:  # an option for each parameter of the grid
    Values = Parameter(name="*", group=GRID)(
        TypedDict(
            "Values",
            {
                name: Annotated[list[_KINDS[kind]], ONCE, Parameter(help=doc, show_default=str(default))]
                for name, (kind, doc, default, _) in PARAMETERS.items()
            },
            total=False,
        )
    )


@Parameter(name="*", group=SEARCH)
@dataclass(frozen=True)
class Search:
    search: Literal["grid", "random", "optuna"] = "grid"
    """of the grid: all of it, or nets drawn from it"""
    samples: Whole | None = None
    """nets that a random or optuna search trains"""
    stop_early: bool = False
    """stop nets that lag behind the others (ASHA)"""


@Parameter(name="*", group=RESOURCES)
@dataclass(frozen=True)
class Resources:
    cpus_per_trial: Annotated[Whole | None, Parameter(show_default="the CPUs shared out among the nets")] = None
    """threads of each training"""
    gpus_per_trial: Annotated[float | Literal["auto"] | None, Parameter(show_default="1 where there is one")] = None
    """share of a GPU for each net; auto: as much as the hungriest takes"""
    max_concurrent: Annotated[Whole | None, Parameter(show_default="as many as there are CPUs")] = None
    """nets trained at a time"""
    time_limit: Annotated[float | None, Parameter(metavar="SECONDS")] = None
    """for each net; one that takes longer is KO"""
    memory_limit: Annotated[float | None, Parameter(metavar="GIB")] = None
    """for each net; one that needs more is KO"""


def asked(
    data: Data,
    files: GridFile,
    values: Values,
    search: Search,
    resources: Resources,
    mlflow: str | None,
    console: "Console",
) -> "SweepConfig":
    """The sweep that the options ask for."""
    from dxray.orchestrator.sweep.sweep import SweepConfig

    grid = {
        name: [value == "on" for value in several] if PARAMETERS[name].kind is bool else several
        for name, several in values.items()
    }
    return SweepConfig(
        data=data.data or "synthetic",
        size=data.size,
        classes=class_names(data.classes),
        label=data.label,
        data_seed=values["seed"][0] if "seed" in values else 0,
        grid=_grid(files, grid, console),
        validate=named_sources(data.validate or []),
        mlflow=mlflow,
        **vars(search),
        **vars(resources),
    )


def _grid(files: GridFile, values: Grid, console: "Console") -> Grid | Sequence[Grid]:
    """What the options say, over the preset or file if there is one."""
    from dxray.orchestrator.sweep.grid_files import preset, read_grid

    file = preset(files.preset) if files.preset else files.grid
    if file is None:
        return values
    header, grids = read_grid(file, values)
    if files.preset:
        console.say(header)
    return grids


def named_sources(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=SOURCE`, of `--validate`."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals or not source or not re.fullmatch(r"\w+", name):
            raise UserError(f"--validate {text}: expected NAME=SOURCE with a name of letters and digits")
        if name in found:
            raise UserError(f"--validate names '{name}' twice; give each source a name of its own")
        found[name] = source
    return found
