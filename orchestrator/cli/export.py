"""The verb `dxray export`."""

from typing import Annotated

from cyclopts import Parameter

from dxray.orchestrator.cli.options import Json, Place, Where
from dxray.orchestrator.errors import UserError


def export(
    run: Place,
    /,
    *,
    where: Where = None,
    out: Annotated[Place | None, Parameter(show_default="RUN")] = None,
    json: Json = False,
) -> None:
    """Write the images of an attack as PNG files, where it did not.

    $ dxray export runs/attack --where 'l2 > 0.5'

    Args:
        run: the folder of an attack, which may still run
        out: folder for the triples
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.runs.export import export as exported

    console = Console(as_json=json)
    result = exported(run, console, where=where, out=out)
    console.say(
        f"{result['triples']:,} triples in {result['out']}: {result['written']:,} files written, "
        f"{result['kept']:,} were there already"
    )
    console.result(result)
    if result["unwritten"]:
        raise UserError(
            f"{result['unwritten']:,} files could not be written, such as {result['reason']}; export to a disk that "
            f"takes such names with --out, or read these images from the run's Parquet files"
        )
