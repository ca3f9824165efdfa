"""What goes wrong for a person to put right, as opposed to what is broken in the code."""

import errno
import os

# Of an OSError that is the disk's fault, or (FULL) that of whoever owns it: once it is put right, work goes on.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
FULL = (*DISK, errno.EACCES, errno.EPERM)
_NO_ROOM = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


class UserError(Exception):
    """Its text is one sentence that names what came, what was expected and what to do; no traceback is shown."""


class Busy(UserError):
    """Another process works on the same folder."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence that says what was kept and how to go on."""


def cannot_write(out: object, reason: str, kept: str) -> UserError:
    """That the folder of a run, or its place in a bucket, takes nothing more; only a full disk asks for room.

    Args:
        reason: what the system said. kept: what is kept, and how to go on.
    """
    full = any(text in reason for text in _NO_ROOM)
    return UserError(
        f"'{out}' {'takes no more' if full else 'cannot be written to'} ({reason}); "
        f"{'make room there' if full else 'mend that'}: {kept}"
    )
