"""What `dxray` says of itself: help, examples, wrong usage, shell completion; and that it says so at once."""

import inspect
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from cyclopts import Group

from dxray.orchestrator.attack.attack import AttackConfig
from dxray.orchestrator.cli.app import app, main, parsed
from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.hardening.stop_rules import Rules
from dxray.orchestrator.reports.robustness import RobustnessConfig
from dxray.orchestrator.sweep.grid import PARAMETERS
from dxray.orchestrator.sweep.sweep import SweepConfig

Said = tuple[int, str, str]
OF_NAME: dict[str, Any] = {
    name: verb.default_command for name, verb in app.resolved_commands().items() if not name.startswith("-")
}
EXAMPLES = [
    (name, line.strip().removeprefix("$ "))
    for name, verb in OF_NAME.items()
    for line in (verb.__doc__ or "").splitlines()
    if line.strip().startswith("$ ")
]
HEAVY = ("torch", "ray", "pyarrow", "numpy", "pandas", "matplotlib")
AT_ONCE = """
import contextlib, io, sys
from dxray.orchestrator.cli.app import app, main
calls = [[], ["--help"], ["--version"], ["swep"], ["--hepl"], ["sweep", "--filters", "x"]]
calls += [[verb, word] for verb in app if verb[0] != "-" for word in ("--help", "--hepl")]
for words in calls:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(words)
    assert code == (0 if words[-1:] in (["--help"], ["--version"]) else 2), (words, code)
    assert not sys.modules.keys() & set(sys.argv[1:]), (words, sys.modules.keys() & set(sys.argv[1:]))
"""


def test_help_and_wrong_usage_load_nothing_that_takes_long() -> None:
    subprocess.run([sys.executable, "-c", AT_ONCE, *HEAVY], check=True)


def test_each_verb_has_an_example() -> None:
    assert list(dict.fromkeys(name for name, _ in EXAMPLES)) == list(OF_NAME)


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_an_example_stands_in_the_help_and_is_accepted(name: str, example: str, dxray: Callable[..., Said]) -> None:
    code, said, _ = dxray(name, "--help")
    assert code == 0
    assert f"$ {example}" in said.splitlines()  # and is not broken in a terminal of 80 columns
    program, *words = shlex.split(example)
    verb, _ = parsed(words)
    assert (program, verb) == ("dxray", OF_NAME[name])


@pytest.mark.parametrize("name", OF_NAME)
def test_each_option_is_explained_in_a_panel(name: str) -> None:
    options = app[name].assemble_argument_collection(parse_docstring=True).filter_by(show=True)
    assert "--json" in options
    for option in options:
        assert option.parameter.help, option.name
        panels = option.parameter.group
        assert isinstance(panels, tuple)
        assert any(isinstance(panel, Group) and panel.show for panel in panels), option.name


def test_the_grids_options_are_its_parameters(dxray: Callable[..., Said]) -> None:
    _, said, _ = dxray("sweep", "--help")
    words = said.replace("│", " ").split()
    for name, parameter in PARAMETERS.items():
        assert f"--{name.replace('_', '-')}" in words
        assert parameter.doc in " ".join(words)


@pytest.mark.parametrize(
    ("name", "configs"),
    [
        ("sweep", [SweepConfig]),
        ("plan", [SweepConfig]),
        ("attack", [AttackConfig]),
        ("retrain", [RetrainConfig, Rules]),
        ("robustness", [RobustnessConfig]),
    ],
)
def test_defaults_of_options_are_those_of_what_they_ask_for(name: str, configs: list[Any]) -> None:
    usual = {field.name: field.default for config in configs for field in fields(config) if field.default != MISSING}
    said = dict(_defaults(OF_NAME[name]))
    shared = {option for option in said.keys() & usual.keys() if said[option] is not None}
    assert shared
    assert {option: said[option] for option in shared} == {option: usual[option] for option in shared}


def _defaults(verb: Callable[..., Any]) -> Any:
    for parameter in inspect.signature(verb).parameters.values():
        if is_dataclass(parameter.default):
            yield from vars(parameter.default).items()
        elif parameter.default is not parameter.empty:
            yield parameter.name, parameter.default


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("swep", 'Unknown command "swep". Did you mean "sweep"?'),
        ("sweep --fliters 8", "Did you mean --filters?"),
        ("sweep --filters", "--filters requires at least 1"),
        ("sweep --filters 8.7", "expected a whole number from 0 up, and '8.7' came"),
        ("sweep --samples -1", "expected a whole number from 0 up, and '-1' came"),
        ("sweep --lr fast", '--lr: unable to convert "fast" into float'),
        ("sweep --batch-norm 1", 'Choose from: "on", "off"'),
        ("sweep --blocks 2 --blocks 9", "--blocks specified multiple times"),
        ("sweep faces/", "nothing takes 'faces/'"),
        ("sweep --resume a --show b", "Mutually exclusive arguments: {--resume, --show}"),
        ("sweep --preset smoke --grid b", "Mutually exclusive arguments: {--preset, --grid}"),
        ("sweep --preset smoke --list-presets", "Mutually exclusive arguments: {--preset, --list-presets}"),
        ("plan --resume a", "Unknown option: --resume"),
        ("attack --resume a --update b", "Mutually exclusive arguments: {--resume, --update}"),
        ("attack a --norm l3", 'Choose from: "l2", "linf", "l1", "l0"'),
        ("attack a --eps 4/0", "expected a number, such as 0.0157 or 4/255, and '4/0' came"),
        ("attack a --workers all", 'Choose from: "auto", "local", "ray"'),
        ("attack a --no-raw", "Unknown option: --no-raw"),
        ("retrain --update a --rollback b", "Mutually exclusive arguments: {--update, --rollback}"),
        ("retrain --every 1h --cron x", "Mutually exclusive arguments: {--every, --cron}"),
        ("predict face.png", "--model requires an argument"),
        ("predict --model net", "IMAGES requires an argument"),
        ("verify", "RUN requires an argument"),
        ("submit c.yaml sweep.py --preset laptop", "Unknown option: --preset"),
    ],
)
def test_wrong_usage_is_told_in_a_line_with_code_2(words: str, sentence: str, dxray: Callable[..., Said]) -> None:
    code, said, errors = dxray(*words.split())
    assert (code, said, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("dxray: ")
    assert sentence in errors
    assert errors.endswith(" --help says more)\n")


def test_without_a_verb_there_is_help_and_code_2(dxray: Callable[..., Said]) -> None:
    code, said, _ = dxray()
    assert code == 2
    assert all(name in said for name in OF_NAME)


def test_the_version_is_that_of_dxray_torch_and_python(dxray: Callable[..., Said]) -> None:
    import torch

    code, said, _ = dxray("--version")
    assert code == 0
    assert f"torch {torch.__version__}, python {sys.version.split()[0]}" in said


def test_arguments_of_a_submitted_script_are_its_own() -> None:
    words = ["--json", "--help", "--data", "folder:my faces", "  "]
    _, options = parsed(["submit", "c.yaml", "sweep.py", "--", *words])
    assert options.args == (Path("c.yaml"), Path("sweep.py"), *words)
    assert not options.kwargs


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_taught_the_verbs_and_their_options(
    shell: Literal["bash", "zsh", "fish"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / "completion"
    assert main(["--install-completion", "--shell", shell, "--output", str(script)]) == 0
    assert str(script) in capsys.readouterr().out
    content = script.read_text()
    for word in (*OF_NAME, "random-erasing", "thorough"):
        assert word in content


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "completed"),
    [("att", "attack"), ("sweep --random-e", "--random-erasing"), ("attack --effort tho", "thorough")]
    + [(f"attack {option}", "faces") for option in ("", "fac", "--model ", "--out fac")],
)
def test_bash_completes_verbs_options_choices_and_files(words: str, completed: str, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    typed = f"COMP_WORDS=(dxray {words}); COMP_CWORD={words.count(' ') + 1}"
    script = f'{app.generate_completion(shell="bash")}\n{typed}\n_dxray\necho "${{COMPREPLY[@]}}"'
    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [completed]


def test_of_a_value_that_is_given_twice_the_last_counts_and_sources_add_up() -> None:
    _, options = parsed(
        ["sweep", "--out", "a", "--validate", "x=a", "--out", "b", "--validate", "y=b", "z=c", "--json", "--json"]
    )
    assert options.arguments["out"] == Path("b")
    assert options.arguments["data"].validate == ["x=a", "y=b", "z=c"]
