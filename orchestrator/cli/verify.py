"""The verb `dxray verify`."""

from typing import Annotated

from cyclopts import Parameter

from dxray.orchestrator.cli.options import NET, Folder, Json, PathText, Place


def verify(
    run: Place,
    /,
    *,
    model: Annotated[PathText | None, Parameter(group=NET, metavar="NET")] = None,
    out: Folder | None = None,
    json: Json = False,
) -> int:
    """Re-read every saved image of an attack and count what still fools.

    The exit code is 1 where one no longer does.

    $ dxray verify runs/attack

    Args:
        run: the folder of an attack
        model: another net of the same input: do the images fool it too?
        out: also write the answers to DIR/verified.parquet
    """
    import torch

    from dxray.orchestrator.console import Console
    from dxray.orchestrator.reports.attack_report import show_verified
    from dxray.orchestrator.reports.verify import verify as verified

    console = Console(as_json=json)
    torch.set_num_threads(1)  # for few images at a time: several threads would mostly wait for each other
    result = verified(run, console, model=model, report=out)
    show_verified(result, console)
    console.result(result)
    return 0 if result["success"] else 1
