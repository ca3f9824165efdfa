"""The command `dxray`: its verbs, and how each of them ends.

A verb is a function in a file of its own: its parameters are the options, its docstring is the help. It imports what it
needs when it runs, so that `--help` and wrong options are answered at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import BoundArguments
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from dxray.models.errors import InputError
from dxray.models.versions import versions
from dxray.orchestrator.cli.options import RUN
from dxray.orchestrator.errors import Interrupted, UserError

# Panel of `dxray --help` -> its verbs, each by the file here that holds it, which is read when the verb is asked for.
VERBS = {
    "Experiments": ("sweep:verb", "sweep:plan", "attack:verb", "retrain:verb", "demo:demo"),
    "Results of an attack": ("show:show", "verify:verify", "export:export", "compact:compact"),
    "Nets": ("predict:predict", "doctor:doctor", "robustness:robustness"),
    "A Ray cluster": ("cluster:up", "cluster:status", "cluster:submit", "cluster:fetch", "cluster:down"),
}


def _shown(default: Any) -> str | None:
    """What `--help` says of a default: nothing of those that are none."""
    return None if default is None or default is False else str(default)


def _app() -> App:
    made = App(
        name="dxray",
        help="Find, save and check the small change that fools a face classifier, on a laptop or a Ray cluster.",
        help_format="plaintext",  # as Markdown, `*` and `_` would be markup, and take time to load
        version=lambda: ", ".join(f"{name} {number}" for name, number in versions().items()),
        default_parameter=Parameter(
            consume_multiple=1, negative=(), allow_repeating=True, show_default=_shown, json_list=False, json_dict=False
        ),
        group_parameters=RUN,
        group_commands=Group("The command itself", sort_key=len(VERBS)),
    )
    for number, (title, verbs) in enumerate(VERBS.items()):
        panel = Group(title, sort_key=number)
        for place, verb in enumerate(verbs):
            file, _, name = verb.partition(":")
            made.command(f"{__package__}.{verb}", name=file if name == "verb" else name, group=panel, sort_key=place)
    return made


app = _app()


@app.command(name="--install-completion")
def _install_completion(
    *,
    shell: Literal["bash", "zsh", "fish"] | None = None,
    output: Annotated[Path | None, Parameter(metavar="FILE")] = None,
) -> None:
    """Have the shell complete verbs, options and files.

    Args:
        shell: the one in use, if not given
        output: the script's place, where the shell looks for it if not given
    """
    from cyclopts.completion.install import create_install_completion_command

    create_install_completion_command(app.install_completion, add_to_startup=True)(shell=shell, output=output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; exit code 0 on success, 1 for what the user can put right, 2 for wrong usage, 130 for Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        app.resolved_commands()  # their list tells what each says of itself
    verb, options = parsed(words)
    if address := options.arguments.get("address"):
        from dxray.orchestrator.ray.session import must_let_in

        must_let_in(address)  # asked again where it is joined; here before minutes are spent on reading faces
    code = verb(*options.args, **options.kwargs)
    return code or 0 if words else 2


def parsed(words: Sequence[str]) -> tuple[Callable[..., int | None], BoundArguments]:
    """The function of a verb, or of `--help`, and its arguments as far as they were given.

    Raises:
        CycloptsError: wrong usage.
        UserError: options that do not go together.
    """
    verb, options, _ = app.parse_args(list(words), print_error=False, exit_on_error=False)
    return verb, options


def guarded(run: Callable[[], int]) -> int:
    """The exit code of `run`; what a person can put right becomes a sentence on standard error."""
    try:
        with _ctrl_c():
            return run()
    except (Interrupted, KeyboardInterrupt) as stopped:
        # Where Ctrl-C came while a string was executed (a dataclass is made so), CPython remembers it, though it was
        # caught, and would end `python -m` by SIGINT instead of our code; the next string makes it forget.
        exec("")
        return _fail(str(stopped) or "stopped by Ctrl-C", 130)
    except BrokenPipeError:  # the reader of our output has gone: `dxray ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CycloptsError as wrong:
        return refused(wrong)
    except (UserError, InputError) as wrong:
        return _fail(str(wrong), 1)


def refused(wrong: CycloptsError) -> int:
    """Say what is wrong in the words of a command, and where help is; exit code 2."""
    said = str(wrong)
    if isinstance(wrong, UnusedCliTokensError):
        said = f"nothing takes {' '.join(map(repr, wrong.unused_tokens or []))}"
    return _fail(f"{said} ({' '.join(['dxray', *(wrong.command_chain or [])])} --help says more)", 2)


ORDERLY = 60.0  # seconds that the end after a Ctrl-C may take; it takes two or three


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """The first Ctrl-C ends the work in an orderly way, within `ORDERLY` seconds; the next ends it at once."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler:
        yield
        return
    asked: SimpleQueue[bool] = SimpleQueue()  # a handler may put into it, whatever it has interrupted

    def second(*_: Any) -> None:
        os._exit(_fail("stopped at once by a second Ctrl-C; what was finished before is kept", 130))

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, second)
        asked.put(True)
        raise KeyboardInterrupt

    def watch() -> None:
        if not asked.get():
            return
        time.sleep(ORDERLY)  # Ray, interrupted at a bad moment, has been seen to wait for ever
        os._exit(
            _fail(f"stopped by Ctrl-C, at once after {ORDERLY:g} s of ending; what was finished before is kept", 130)
        )

    # Started here: a handler that did may find `threading` locked by what it interrupts.
    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:  # else the process is about to end, and may be asked again
            signal.signal(signal.SIGINT, usual)
            asked.put(False)


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"dxray: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
