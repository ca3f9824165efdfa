"""How much memory a training may take and has taken. The process is one trial's own, see `sweep.trial_process`."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

GIB = 2**30
_STATUS = Path("/proc/self/status")


@contextmanager
def bounded_memory(gib: float | None, *, gpu_share: float = 1.0) -> Iterator[float | None]:
    """Let an allocation beyond the limit fail in this process; gives the limit in GiB, None for none.

    The alternative is that Ray's memory monitor or the kernel kills a process, and not always the greedy one.

    Args:
        gib: what may be taken beyond what the process has now; on CUDA what may be taken of the device.
        gpu_share: of the device's memory, in (0, 1]; CUDA only.
    """
    if torch.cuda.is_available():  # it reserves address space freely; its own allocator keeps to a share
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        share = min(gpu_share, gib * GIB / whole if gib else 1.0)
        torch.cuda.set_per_process_memory_fraction(share)
        yield share * whole / GIB
        return
    if gib is None or not _STATUS.exists():
        yield None
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _read("VmData") + int(gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (min(limit, before[1]) if before[1] >= 0 else limit, before[1]))
    try:
        yield gib
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


class Peak:
    """The most memory that this process has held at a time, beyond what it had when this was made."""

    def __init__(self) -> None:
        self._before = _own_bytes("VmRSS")

    def gib(self) -> float:
        """GiB; on CUDA those of the device."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / GIB
        return max(0, _own_bytes("VmHWM") - self._before) / GIB


def _own_bytes(which: str) -> int:
    """Resident memory now ("VmRSS") or at its highest ("VmHWM"), less files' and the images in Ray's object store."""
    if not _STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return _read(which) - _read("RssShmem") - _read("RssFile")


def _read(name: str) -> int:
    """A figure of this process in bytes; `VmData`, private writable memory, is what RLIMIT_DATA bounds."""
    found = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024
