"""Seconds that the stages of a work take."""

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager


@contextmanager
def timed(clock: MutableMapping[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of the block to `clock[stage]`, however it ends."""
    started = time.perf_counter()
    try:
        yield
    finally:
        clock[stage] += time.perf_counter() - started
