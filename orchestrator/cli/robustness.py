"""The verb `dxray robustness`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dxray.orchestrator.cli.options import (
    ATTACK,
    NET,
    ONCE,
    Budget,
    Classes,
    Folder,
    Json,
    Label,
    Net,
    PathText,
    Seed,
    Source,
    Whole,
    class_names,
)


def robustness(
    *models: Annotated[Net, Parameter(required=True)],
    data: Source,
    label: Label = None,
    classes: Classes = None,
    defense: Annotated[list[str] | None, ONCE, Parameter(group=NET, metavar="NAME[:X=VALUE,...]")] = None,
    surrogate: Annotated[
        PathText | None, Parameter(group=NET, metavar="NET", show_default="the first other of MODELS")
    ] = None,
    eps: Annotated[
        list[Budget] | None, ONCE, Parameter(group=ATTACK, consume_multiple=True, show_default="2/255 4/255 8/255")
    ] = None,
    l2: Annotated[
        list[Budget] | None, ONCE, Parameter(group=ATTACK, consume_multiple=True, show_default="0.25 0.5 1")
    ] = None,
    count: Annotated[Whole, Parameter(group=ATTACK)] = 256,
    steps: Annotated[Whole, Parameter(group=ATTACK)] = 50,
    queries: Annotated[Whole, Parameter(group=ATTACK)] = 200,
    out: Folder = Path("runs/robustness"),
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say how much nets withstand, judged by attacks that know the defence.

    $ dxray robustness runs/sweep --data utkface:faces/ --defense none jpeg

    Args:
        data: labelled faces, as for sweep; those of the test split
        defense: put each net behind each: jumprelu:kappa=0.1, bit_depth:bits=3, jpeg:quality=50, ...
        surrogate: the net on which images are made that are then tried on undefended nets (transfer)
        eps: Linf budgets, none or several
        l2: L2 budgets, none or several
        count: faces that are attacked
        steps: gradients a face, of each attack
        queries: answers a face, of Square
        out: folder for the rows and the picture
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.reports import robustness as report

    console = Console(as_json=json)
    budgets = {"linf": eps, "l2": l2}
    config = report.RobustnessConfig(
        models=list(models),
        data=data,
        label=label,
        classes=class_names(classes),
        data_seed=seed,
        defenses=defense,
        surrogate=surrogate,
        count=count,
        steps=steps,
        queries=queries,
        seed=seed,
        **{norm: tuple(asked) for norm, asked in budgets.items() if asked is not None},
    )
    result = report.robustness(config, out, console)
    report.show(result, console)
    console.result(result)
