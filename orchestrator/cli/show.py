"""The verb `dxray show`."""

from typing import Annotated

from cyclopts import Parameter

from dxray.orchestrator.cli.options import Json, Place, Where, Whole


def show(
    run: Place,
    /,
    *,
    where: Where = None,
    count: Whole = 6,
    out: Annotated[Place | None, Parameter(show_default="RUN")] = None,
    json: Json = False,
) -> None:
    """Say what came of an attack, and draw its hardest and easiest images.

    $ dxray show runs/attack
    $ dxray show runs/attack --where 'l2 > 0.5'

    Args:
        run: the folder of an attack, which may still run
        count: hardest, easiest and slowest images
        out: folder for the contact sheet
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.reports.attack_report import show_run
    from dxray.orchestrator.reports.show import show as shown

    console = Console(as_json=json)
    with console.share("reading the run") as on_share:
        result = shown(run, where=where, count=count, out=out, on_share=on_share)
    show_run(result, console)
    console.result(result)
