"""What goes wrong for a person to put right, as opposed to what is broken in the code."""

import errno

# Of an OSError that is the disk's fault, or (FULL) that of whoever owns it: once it is put right, work goes on.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
FULL = (*DISK, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """Its text is one sentence that names what came, what was expected and what to do; no traceback is shown."""


class Busy(UserError):
    """Another process works on the same folder."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence that says what was kept and how to go on."""
