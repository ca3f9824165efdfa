"""A run's folder is blamed for what it did, and only a full disk asks for room."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dxray.orchestrator.attack import attack
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError, cannot_write
from dxray.orchestrator.hardening import retrain
from dxray.orchestrator.sweep import sweep

GUARDED: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "sweep": lambda out: sweep._stops(out, 2),
    "attack": lambda out: attack._in(out, Console()),
    "retrain": retrain._stops,
}


def failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize("verb", GUARDED)
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "takes no more (No space left on device); make room there: "),
        (errno.EDQUOT, "takes no more (Disk quota exceeded); make room there: "),
        (errno.EACCES, "cannot be written to (Permission denied); mend that: "),
        (errno.EROFS, "cannot be written to (Read-only file system); mend that: "),
    ],
)
def test_a_folder_that_takes_nothing_is_one_true_sentence(verb: str, code: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as wrong, GUARDED[verb](tmp_path):
        raise failed(code)
    assert said.partition(" (")[0] in str(wrong.value)
    assert os.strerror(code) in str(wrong.value)
    assert ("make room" in str(wrong.value)) == ("make room" in said)
    assert f"dxray {verb} --resume" in str(wrong.value)


@pytest.mark.parametrize("verb", GUARDED)
@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.ENAMETOOLONG, errno.EMFILE])
def test_what_is_not_the_folders_fault_is_not_told_of_it(verb: str, code: int, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(code)), GUARDED[verb](tmp_path):
        raise failed(code)


def test_a_bucket_that_refuses_is_not_full() -> None:
    said = str(cannot_write("s3://lab/run", "AccessDenied", "what is finished is kept"))
    assert said == "'s3://lab/run' cannot be written to (AccessDenied); mend that: what is finished is kept"
