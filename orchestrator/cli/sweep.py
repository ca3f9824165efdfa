"""The verbs `dxray sweep` and `dxray plan`, which take the same options."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from dxray.orchestrator.cli.options import GRID, RUN, WAYS, Address, Json, Place, must_leave_out
from dxray.orchestrator.cli.sweep_options import GRIDS, Data, GridFile, Resources, Search, Values, asked, named_sources

if TYPE_CHECKING:
    from dxray.orchestrator.console import Console


def _check(**options: Any) -> None:
    if "resume" in options:
        reason = "--resume takes all else from the sweep itself"
        places = {"data", "validate"}  # where its faces are now
        must_leave_out(options, reason, but={"resume", "address", "json"} | places)


verb = App(name="sweep", validator=_check)


@verb.default
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
        resume: go on with the stopped sweep in DIR; with data and validate, where its faces are now
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
        validate = named_sources(data.validate or [])
        result = sweeps.resume(resume, console, data=data.data, validate=validate, address=address)
    else:
        config = asked(data, files, values or {}, search, resources, mlflow, console)
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
    config = asked(data, files, values or {}, search, resources, mlflow, console)
    console.result(planned(config, console, address=address))
    return 0


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
