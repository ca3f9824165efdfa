"""Two sides of a comparison at work in turns of two seconds: while one is, all processes of the other are halted.

What a machine's speed drifts by within seconds, a tenth and more on one that is shared, is then in the time of both.
"""

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TURN = 2.0  # seconds: far longer than caches take to fill and timers to catch up, far shorter than what is measured


class Turns:
    """Has each side's processes, and all that they started, work in turns until all have ended.

    Args:
        sides: for each, the processes that were started for it.
    """

    def __init__(self, sides: dict[str, Sequence[subprocess.Popen[str]]]) -> None:
        self._sides = sides
        self._worked: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}

    def take(self) -> None:
        """Return when all processes have ended, or are no longer halted."""
        try:
            while going := [side for side in self._sides if self._goes(side)]:
                for side in going:
                    for other in self._sides:
                        if other != side:
                            self._send(other, signal.SIGSTOP)
                    began = time.time()
                    self._send(side, signal.SIGCONT)
                    while time.time() < began + TURN and self._goes(side):
                        time.sleep(0.02)
                    self._worked[side].append((began, time.time()))
        finally:
            for side in self._sides:
                self._send(side, signal.SIGCONT)

    def seconds(self, side: str, began: float, ended: float) -> float:
        """For how much of a time, in seconds since 1970, a side was not halted; before the turns none was."""
        turns = [(0.0, min(start for worked in self._worked.values() for start, _ in worked)), *self._worked[side]]
        return sum(max(0.0, min(end, ended) - max(start, began)) for start, end in turns)

    def _goes(self, side: str) -> bool:
        return any(process.poll() is None for process in self._sides[side])

    def _send(self, side: str, what: signal.Signals) -> None:
        """To each process once; twice looked for, for one that is not halted yet may start another."""
        told: set[int] = set()
        for _ in range(2):
            for process in below([process.pid for process in self._sides[side] if process.poll() is None]) - told:
                with suppress(ProcessLookupError):
                    os.kill(process, what)
                told.add(process)


def below(roots: Sequence[int]) -> set[int]:
    """These processes and all that they, and those in turn, have started."""
    children = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(status.parent.name))
    found, left = set(), list(roots)
    while left:
        process = left.pop()
        found.add(process)
        left += children[process]
    return found


def title(process: int) -> bytes:
    """What a process calls itself."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""
