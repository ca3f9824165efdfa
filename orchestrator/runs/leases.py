"""One process at a time works on a run in an object store, which has no locks: a lease, renewed while its holder lives.

The object `.lock` says who holds it and is written anew every `BEAT` seconds. Whoever finds one waits: if it changes,
its holder lives; if it has not changed for `LEASE` seconds of the finder's own clock, its holder is dead, and it is
taken over. Two who find it free at once both write it and wait for `SETTLE` seconds: the last one to write has it
(Fischer's algorithm, in Lamport 1987, doi:10.1145/7351.7352). This holds as long as no write takes longer than that. A
holder that finds another's name, or cannot write for half a lease, stops. Conditional writes would need no clock, but
Arrow has none (its issue 44281).
"""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dxray.orchestrator.errors import Busy, UserError
from dxray.orchestrator.runs.buckets import ObjectPath

BEAT, LEASE, SETTLE = 5.0, 30.0, 2.0  # seconds


@contextmanager
def leased(out: ObjectPath, say: Callable[[str], None]) -> Iterator[None]:
    """Have the run in `out` to oneself; `say` is told where that takes a while.

    Raises:
        Busy: another process works on it.
        UserError: it was lost to another process, or the store could not be reached for too long.
    """
    lock = out / ".lock"
    me = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex}"
    _must_be_free(lock, out, say)
    _write(lock, me)
    time.sleep(SETTLE)
    if _holder(lock) != me:
        raise _busy(out)
    ended, lost = threading.Event(), threading.Event()
    keeper = threading.Thread(target=_keep, args=(lock, me, ended, lost), daemon=True)
    keeper.start()
    try:
        yield
    except KeyboardInterrupt:
        if lost.is_set():
            raise UserError(
                f"'{out}' was lost to another process, or its store did not answer for {LEASE / 2:.0f} s; what is "
                f"finished is kept; go on with it by --resume '{out}'"
            ) from None
        raise
    finally:
        ended.set()
        keeper.join()
        if not lost.is_set():
            lock.unlink(missing_ok=True)


def _must_be_free(lock: ObjectPath, out: ObjectPath, say: Callable[[str], None]) -> None:
    found = _content(lock)
    if found is None:
        return
    deadline = time.monotonic() + LEASE
    say(f"'{out}' is marked as worked on; whether that process lives shows in {LEASE:.0f} s at most")
    while time.monotonic() < deadline:
        time.sleep(BEAT / 5)
        now = _content(lock)
        if now is None:
            return
        if now != found:
            raise _busy(out)


def _keep(lock: ObjectPath, me: str, ended: threading.Event, lost: threading.Event) -> None:
    renewed = time.monotonic()
    while not ended.wait(BEAT):
        began = time.monotonic()
        try:
            if _holder(lock) not in (me, None):
                lost.set()
            else:
                _write(lock, me)
                renewed = began
        except OSError:
            pass  # tried again, for a while
        if lost.is_set() or time.monotonic() - renewed > LEASE / 2:
            lost.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it where it waits
            return


def _write(lock: ObjectPath, me: str) -> None:
    lock.write_bytes(f"{me} {uuid.uuid4().hex}".encode())


def _content(lock: ObjectPath) -> bytes | None:
    try:
        return lock.read_bytes()
    except FileNotFoundError:
        return None


def _holder(lock: ObjectPath) -> str | None:
    content = _content(lock)
    return content.decode().partition(" ")[0] if content is not None else None


def _busy(out: ObjectPath) -> Busy:
    return Busy(f"another dxray process works on '{out}' now; wait for it or choose another --out")
