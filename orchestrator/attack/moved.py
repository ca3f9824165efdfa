"""A run whose images lie elsewhere now, on another machine or disk: it goes on there where the images are the same."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice

from dxray.orchestrator.attack.decoding import digests
from dxray.orchestrator.attack.input_lists import difference, placed, read_list, write_list
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import read_rows

COMPARED = 4096  # images of which the bytes are compared, at least, where so many are done: a bucket sends each of them
_CHUNK, _THREADS = 64, 8


def move(
    out: Place, lists: int, paths: Sequence[str], list_again: Callable[[], Iterator[Input]]
) -> list[dict[str, object]]:
    """Write the lists of a run in `out` anew, with the places where its images are now.

    The same images are: the same names, each with its label, in the same order, and of those that are done (of many, of
    `COMPARED` or more that are spread evenly) the same bytes. Of images that are still to be done no more is known.

    Args:
        paths: the new places. list_again: lists them, each time that it is called.

    Returns:
        What `attack.json` is to say of each list now.

    Raises:
        UserError: there are other images, with the first difference.
    """
    count = sum(1 for _ in read_rows(out, ["name"]))
    done = islice(read_rows(out, ["name", "input_sha256"]), 0, None, max(1, count // COMPARED))
    known = {row["name"]: row["input_sha256"] for row in done if row["input_sha256"]}
    found: list[Input] = []

    def kept() -> Iterator[Input]:
        for item in list_again():
            if item.name in known:
                found.append(item)
            yield item

    differs = difference(out, lists, kept(), moved=True) or _other_image(found, known)
    if differs:
        raise UserError(
            f"{', '.join(map(repr, paths))} does not hold the images of '{out}': {differs}; name the places of the "
            f"same images in the order of before, or choose another --out for these"
        )
    return [asdict(write_list(out, number, placed(read_list(out, number), list_again()))) for number in range(lists)]


def _other_image(inputs: Sequence[Input], known: dict[str, str]) -> str | None:
    chunks = [inputs[at : at + _CHUNK] for at in range(0, len(inputs), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for some, now in zip(chunks, pool.map(digests, chunks), strict=True):
            for item, digest in zip(some, now, strict=True):
                if digest != known[item.name]:
                    pool.shutdown(cancel_futures=True)
                    return f"'{item.name}' is another image"
    return None
