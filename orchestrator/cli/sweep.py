"""The verbs `dxray sweep` and `dxray plan`, which take the same options."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from dxray.orchestrator.cli.options import (
    DATA,
    GRID,
    ONCE,
    RESOURCES,
    RUN,
    SEARCH,
    WAYS,
    Address,
    Folder,
    Json,
    Label,
    Place,
    Source,
    Whole,
    must_leave_out,
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
    data: Source = "synthetic"
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


def check_sweep(**options: Any) -> None:
    """UserError where `--resume` comes with what the sweep itself knows."""
    if "resume" in options:
        reason = "--resume takes all else from the sweep itself"
        must_leave_out(options, reason, but={"resume", "address", "json"})


def sweep(
    *,
    data: Data = Data(),
    files: GridFile = GridFile(),
    list_presets: Annotated[bool, Parameter(group=(GRID, GRIDS))] = False,
    values: Values | None = None,
    search: Search = Search(),
    resources: Resources = Resources(),
    out: Place = Path("runs/sweep"),
    resume: Annotated[Place | None, Parameter(group=(RUN, WAYS))] = None,
    show: Annotated[Place | None, Parameter(group=(RUN, WAYS))] = None,
    mlflow: Annotated[str | None, Parameter(metavar="URI")] = None,
    address: Address = None,
    json: Json = False,
) -> int:
    """Train a grid of nets with Ray Tune and keep the best.

    $ dxray sweep
    $ dxray sweep --data utkface:faces/ --filters 8 16 --dropout 0 0.1
    $ dxray sweep --preset laptop --search random --samples 20

    Args:
        list_presets: say what each preset costs and gives
        out: folder for the results
        resume: go on with the stopped sweep in DIR
        show: the table of the sweep in DIR, while it runs too
        mlflow: also log every net to this MLflow server or sqlite:///FILE
    """
    from dxray.orchestrator.console import Console

    console = Console(as_json=json)
    if list_presets:
        return _list_presets(console)
    if show:
        return _show(show, console)
    from dxray.orchestrator.runs.places import place
    from dxray.orchestrator.sweep import sweep as sweeps

    if resume:
        result = sweeps.resume(resume, console, address=address)
    else:
        config = _config(data, files, values or {}, search, resources, mlflow, console)
        result = sweeps.sweep(config, out, console, address=address)
    result["table"] = _show_trials(result["trials"], place(result["out"]), console)
    best = result["best_trial"]
    which = "best on the validation split"
    if best["validation_accuracy"] is None:
        which = "nothing was chosen, for the nets learnt the validation images; the first"
    console.say(f"{which}: {best['accuracy']:.2%} on the test split; saved in {result['best']}")
    # Of layers there may be hundreds of thousands of figures, which layers.parquet holds.
    brief = [{name: value for name, value in row.items() if name != "layer_columns"} for row in result["trials"]]
    console.result(result | {"trials": brief})
    return 0


def plan(
    *,
    data: Data = Data(),
    files: GridFile = GridFile(),
    values: Values | None = None,
    search: Search = Search(),
    resources: Resources = Resources(),
    out: Place = Path("runs/sweep"),
    mlflow: Annotated[str | None, Parameter(metavar="URI")] = None,
    address: Address = None,
    json: Json = False,
) -> int:
    """Say what a sweep would train, where, and how long it would take.

    $ dxray plan --preset laptop --data utkface:faces/ --address auto

    Args:
        out: as of the sweep; nothing is written
        mlflow: as of the sweep; nothing is logged
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.sweep.plan import plan as planned

    console = Console(as_json=json)
    config = _config(data, files, values or {}, search, resources, mlflow, console)
    console.result(planned(config, console, address=address))
    return 0


def _config(
    data: Data,
    files: GridFile,
    values: Values,
    search: Search,
    resources: Resources,
    mlflow: str | None,
    console: "Console",
) -> "SweepConfig":
    from dxray.orchestrator.sweep.sweep import SweepConfig

    grid = {
        name: [value == "on" for value in several] if PARAMETERS[name].kind is bool else several
        for name, several in values.items()
    }
    return SweepConfig(
        data=data.data,
        size=data.size,
        classes=data.classes.split(",") if data.classes else None,
        label=data.label,
        data_seed=values["seed"][0] if "seed" in values else 0,
        grid=_grid(files, grid, console),
        validate=_named_sources(data.validate or []),
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


def _named_sources(texts: Sequence[str]) -> dict[str, str]:
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


def _list_presets(console: "Console") -> int:
    from dxray.orchestrator.sweep.grid_files import presets, read_grid

    found = {name: read_grid(file) for name, file in presets().items()}
    for name, (header, _) in found.items():
        console.say(f"{name}\n{indent(header, '  ')}\n")
    console.result({name: {"says": header, "grids": grids} for name, (header, grids) in found.items()})
    return 0


def _show(out: Place, console: "Console") -> int:
    from dxray.orchestrator.sweep.tables import read_trials

    rows = read_trials(out)
    console.result({"out": str(out), "trials": rows, "table": _show_trials(rows, out, console)})
    return 0


def _show_trials(rows: Sequence[Mapping[str, Any]], out: Place, console: "Console") -> str | None:
    """The table in the terminal, and as a picture; returns where that is."""
    from dxray.orchestrator.reports.heatmap import save_picture
    from dxray.orchestrator.reports.trial_table import show_table

    show_table(rows, console)
    picture = save_picture(rows, out, console)
    if picture:
        console.say(f"the same as a picture: {picture}")
    return str(picture) if picture else None
