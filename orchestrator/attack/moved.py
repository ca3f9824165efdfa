"""A run whose images lie elsewhere now, on another machine or disk: it goes on there where the images are the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice

from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.decoding import contents
from dxray.orchestrator.attack.input_lists import difference, placed, read_list, write_list
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import read_rows

SAMPLED = 256  # images that are done whose bytes are compared: to read all again would cost as much as to go on


def move(
    out: Place, lists: int, paths: Sequence[str], list_again: Callable[[], Iterator[Input]], card: ModelCard
) -> list[dict[str, object]]:
    """Write the lists of a run in `out` anew, with the places where its images are now.

    The same images are: the same names, each with its label, in the same order, and of about `SAMPLED` of those that
    are done, evenly spread over the run, the same bytes. Of images that are still to be done nothing else is known.

    Args:
        paths: the new places. list_again: lists them, each time that it is called.

    Returns:
        What `attack.json` is to say of each list now.

    Raises:
        UserError: there are other images, with the first difference.
    """
    count = sum(1 for _ in read_rows(out, ["name"]))
    done = islice(read_rows(out, ["name", "input_sha256"]), 0, None, max(1, count // SAMPLED))
    known = {row["name"]: row["input_sha256"] for row in done if row["input_sha256"]}
    found: list[Input] = []

    def listed() -> Iterator[Input]:
        for item in list_again():
            if item.name in known:
                found.append(item)
            yield item

    differs = difference(out, lists, listed(), moved=True)
    if differs is None:
        for item, content in zip(found, contents(found, card), strict=True):
            if content.sha256 != known[item.name]:
                differs = f"'{item.name}' is another image"
                break
    if differs:
        raise UserError(
            f"{', '.join(map(repr, paths))} does not hold the images of '{out}': {differs}; name the places of the "
            f"same images in the order of before, or start a run in another folder"
        )
    return [asdict(write_list(out, number, placed(read_list(out, number), list_again()))) for number in range(lists)]
