"""The verb `dxray doctor`."""

from typing import Annotated

from cyclopts import Parameter

from dxray.orchestrator.cli.options import DATA, Classes, Folder, Json, Label, Seed, Whole, class_names


def doctor(
    path: Folder,
    /,
    *,
    trial: Annotated[Whole | None, Parameter(metavar="N")] = None,
    data: Annotated[str | None, Parameter(group=DATA, metavar="SOURCE", show_default="those of the training")] = None,
    label: Label = None,
    classes: Classes = None,
    quick: bool = False,
    out: Annotated[Folder | None, Parameter(show_default="doctor/ in that folder")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Say what is wrong with a training, and what to do about it.

    The exit code is 1 where a fault was found, 0 where none or only notes.

    $ dxray doctor runs/sweep --trial 3

    Args:
        path: a sweep's folder: all its nets; or one net
        trial: that net of the sweep alone
        data: faces to examine on, as for sweep
        quick: leave out the range test of the learning rate
        out: folder for the report and curves
    """
    import torch

    from dxray.orchestrator.console import Console
    from dxray.orchestrator.reports import doctor as report

    console = Console(as_json=json)
    torch.set_num_threads(1)  # for few images at a time: several threads would mostly wait for each other
    result = report.doctor(
        path,
        console,
        trial=trial,
        data=data,
        label=label,
        classes=class_names(classes),
        seed=seed,
        quick=quick,
        out=out,
    )
    report.show(result, console)
    console.result(result)
    return 1 if result["faults"] else 0
