"""The verb `dxray compact`."""

from dxray.orchestrator.cli.options import Folder, Json


def compact(run: Folder, /, *, json: Json = False) -> None:
    """Merge the many small parts of a finished attack into few.

    $ dxray compact runs/attack

    Args:
        run: the folder of a finished attack
    """
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.runs.compact import compact as compacted

    console = Console(as_json=json)
    result = compacted(run, console)
    parts = f"{result['parts_before']:,} part{'s' * (result['parts_before'] != 1)} before, {result['parts']:,} now"
    console.say(f"{result['rows']:,} image{'s' * (result['rows'] != 1)}, {parts}")
    console.result(result)
