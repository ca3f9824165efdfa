"""Every command that a page shows is run here as it stands there, made small; or the table says how it is covered."""

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.orchestrator.cli.app import main
from tests.orchestrator.amazon import ask_amazon, serving

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(1200)  # the first test waits for all of README's runs, perhaps on a busy machine
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Command(NamedTuple):
    words: tuple[str, ...]
    page: str

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(page: Path, kind: str) -> list[str]:
    return [block for found, block in BLOCK.findall(page.read_text()) if found == kind]


def commands() -> list[Command]:
    """Those of all `sh` blocks, each once."""
    shown = ((block.replace("\\\n", ""), page.name) for page in PAGES for block in blocks(page, "sh"))
    lines = ((line, page) for block, page in shown for line in block.splitlines())
    split = ((tuple(shlex.split(line, comments=True)), page) for line, page in lines)
    found: dict[tuple[str, ...], Command] = {}
    for words, page in split:
        if words:
            found.setdefault(words, Command(words, page))
    return list(found.values())


# What makes a run small: these options replace those of the page. Nothing else of a command is touched.
A_NET = {"--epochs": "4", "--train-size": "128", "--batch-size": "16", "--blocks": "2", "--convs": "2"}  # learns in 1 s
ONE = {"--search": "random", "--samples": "1"}  # of the grid, which is made as the page has it
FEW = {"--data": "synthetic:300"}  # where the page names no faces, and 10,000 would be drawn
SMALL: dict[str, Mapping[str, str]] = {
    "sweep": A_NET | ONE | FEW,
    "retrain": {"--rounds": "1", "--attack-faces": "8", "--held-out": "4", "--epochs": "1"},  # not of a whole data set
    "robustness": {"--count": "4", "--steps": "2", "--queries": "5"},
    "doctor": {"--quick": ""},  # the range test trains for half a minute
}
GOES_ON = {"--resume", "--update", "--show", "--rollback", "--list-presets"}  # these begin no run, so are small already


def made_small(words: Sequence[str]) -> list[str]:
    if GOES_ON & set(words):
        return list(words)
    options = dict(SMALL.get(words[1], {}))
    for option in {"--search", "--data"} & set(words):
        options.pop(option, None)
    if "--preset" in words and words[1] == "sweep":
        options["--filters"] = "4"
    if "--method" in words:  # such a training is one round, in which all faces are attacked
        del options["--rounds"], options["--attack-faces"]
    kept, replaced = [], False
    for word in words:
        replaced = word in options or (replaced and not word.startswith("--"))
        kept += [] if replaced else [word]
    return [*kept, *(word for option in options.items() for word in option if word)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, faces: Faces, local_ray: None) -> Path:
    """A folder in which README's story was told, with all that other pages speak of: faces, tables, a grid, runs."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    ages, races = (rng.integers(*ends, len(faces)).tolist() for ends in ((1, 100), (0, 5)))
    pictures = [encode_png(image) for image in faces.images]
    for name, content in files_of(faces, pictures, ages, races):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    columns = {"name": faces.names, "split": faces.splits, "gender": faces.labels}
    told = {"age": ages, "race": races, "image": pictures}
    table = pa.table({name: values.tolist() for name, values in columns.items()} | told)
    for name in ("utkface48.parquet", "FACES.parquet", "some.parquet"):
        pq.write_table(table, folder / name)
    (folder / "tables").mkdir()
    (folder / "some.parquet").rename(folder / "tables" / "some.parquet")
    shutil.copytree(ROOT / "cluster", folder / "cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in STORY:
            assert main(made_small(words)[1:]) in codes_of(words), words
        assert main(["retrain", "--rollback", "runs/retrain", "--to-round", "1"]) == 0  # one that may be taken back
    shutil.copytree(folder / "runs" / "sweep" / "best", folder / "NET")
    return folder


def files_of(
    faces: Faces, pictures: Sequence[bytes], ages: Sequence[int], races: Sequence[int]
) -> Iterator[tuple[str, bytes]]:
    for i, label in enumerate(faces.labels[:160]):
        told = f"{ages[i]}_{label}_{races[i]}_{20170116000000000 + i}"
        yield f"faces/UTKFace/{told}.jpg.chip.jpg", pictures[i]
    for i, label in enumerate(faces.labels[:100]):
        yield f"faces/other/{('man', 'woman')[label]}/{i}.png", pictures[i]
        yield f"faces/ages/{('young', 'old')[label]}/{i}.png", pictures[i]
    for name, picture in zip(("someone", "smith", "other"), pictures[200:], strict=False):
        yield f"faces/some/{name}.png", picture
        yield f"more/{name}.png", picture
    yield "faces.txt", b"faces/some/someone.png\nfaces/some/smith.png\n"
    yield "grid.yaml", blocks(ROOT / "docs" / "sweeps.md", "yaml")[0].encode()


class At(NamedTuple):
    """Where a command is given: a copy of the world, and what it prints there."""

    folder: Path
    said: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch


@pytest.fixture
def at(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> At:
    folder = tmp_path / "world"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return At(folder, capsys, monkeypatch)


def codes_of(words: Sequence[str]) -> set[int]:
    return {0, 1} if words[1] == "doctor" else {0}  # 1: it has found a fault


def is_run(words: Sequence[str], at: At) -> None:
    if not GOES_ON & set(words):  # the world's own run makes room for the one that the page begins
        out = words[words.index("--out") + 1] if "--out" in words else f"runs/{words[1]}"
        shutil.rmtree(at.folder / out, ignore_errors=True)
    code, wrong = main(made_small(words)[1:]), at.said.readouterr().err
    assert code in codes_of(words), wrong
    assert "dxray: " not in wrong


def stays(words: Sequence[str], at: At) -> None:
    """It waits for its time, where a Ctrl-C ends it."""

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    at.patch.setattr("dxray.orchestrator.hardening.schedule.SystemClock.sleep", pressed)
    assert main(list(words[1:])) == 130
    assert "next look at" in at.said.readouterr().out


def needs_machines(words: Sequence[str], at: At) -> None:
    """It is understood, and asks for the addresses of the machines: tests/cluster has some, and runs it there."""
    assert main(list(words[1:])) == 1
    assert "edit the lines marked EDIT" in at.said.readouterr().err


def is_rays(words: Sequence[str], at: At) -> None:
    """Ray has such a command, and the files are there; tests/cluster runs it."""
    from ray.scripts.scripts import cli

    cli.commands[words[1]].make_context(words[1], list(words[2:]))
    assert all((ROOT / "cluster" / word).is_file() for word in words if word.endswith((".yaml", ".py")))


def is_made(words: Sequence[str], at: At) -> None:
    """The Makefile knows it; CI runs it, but for the demo, which is run here with fewer faces and one small net."""
    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    if "demo" in words:
        grid = {"net": ["convnet"], "filters": [4], "epochs": [1], "convs": [1]}
        for name, value in {"FACES": 300, "ATTACKED": 8, "GRID": grid}.items():
            at.patch.setattr(f"dxray.orchestrator.cli.demo.{name}", value)
        assert main(["demo", "--out", "runs/demo"]) == 0


def is_parsed(words: Sequence[str], at: At) -> None:
    """A bench takes minutes or hours: only its options are read."""
    module, options = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    parse_args = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def parsed(parser: argparse.ArgumentParser, *_: object) -> None:
        parse_args(parser, options)
        raise Parsed

    at.patch.setattr("argparse.ArgumentParser.parse_args", parsed)
    with pytest.raises(Parsed):
        importlib.import_module(module.removesuffix(".py").replace("/", ".")).main()


def installs(words: Sequence[str], at: At) -> None:
    """There are such extras; tests/test_installed.py installs the package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[1] == "install"
    assert all(name in extras for names in re.findall(r"\[(.*)\]", words[2]) for name in names.split(","))


def finds_its_files(words: Sequence[str], at: At) -> None:
    """TensorBoard is no part of dxray: what it reads is there."""
    assert list(at.folder.glob(f"{words[2]}/tune-*/*/events.out.tfevents.*"))


def is_there(words: Sequence[str], at: At) -> None:
    """The shell's own, or what `make` has installed: the files that it names exist."""
    assert all((ROOT / word).exists() for word in words[1:] if re.match("(tests|cluster)", word))


# How a command is covered, by how it begins; the first that fits.
COVERED: dict[str, Callable[[Sequence[str], At], None]] = {
    r"dxray retrain .*--(cron|every) ": stays,
    r"dxray (up|status|submit|fetch|down) ": needs_machines,
    r"dxray ": is_run,
    r"ray ": is_rays,
    r"make ": is_made,
    r"python (-m tests\.bench\.|tests/bench/)\w+": is_parsed,
    r"pip install ": installs,
    r"tensorboard --logdir ": finds_its_files,
    r"(cd cluster|umask 077|\.venv/bin/pre-commit install|\.venv/bin/python -m pytest tests/\S+)$": is_there,
}


def way_of(words: Sequence[str]) -> Callable[[Sequence[str], At], None]:
    text = shlex.join(words)
    ways = [way for pattern, way in COVERED.items() if re.match(pattern, text)]
    assert ways, f"nothing says how '{text}' is covered; see COVERED"
    return ways[0]


BUCKET = "s3://"
STORY = [one.words for one in commands() if one.page == "README.md" and way_of(one.words) is is_run]
ALONE = [one for one in commands() if one.words not in STORY and BUCKET not in str(one)]
IN_A_BUCKET = [one.words for one in commands() if BUCKET in str(one)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of libraries below MLflow
@pytest.mark.parametrize("command", ALONE, ids=str)
def test_a_command_of_a_page_works(command: Command, at: At) -> None:
    way_of(command.words)(command.words, at)


def test_the_commands_of_readme_work_one_after_the_other(world: Path) -> None:
    runs = {"sweep": "best", "attack": "triples", "retrain": "current", "robustness": "robustness.png"}
    assert all((world / "runs" / run / result).exists() for run, result in runs.items())


@pytest.fixture
def bucket() -> Iterator[None]:
    """An S3 server with a bucket that is called as on the pages."""
    with serving():
        ask_amazon("s3", "create_bucket", Bucket="bucket")
        yield


SCRIPT = """
import json, sys
from pathlib import Path
from dxray.orchestrator.cli.app import main
from dxray.orchestrator.ray.session import connected
from dxray.orchestrator.runs.buckets import ObjectPath

if __name__ == "__main__":
    for file in Path("faces/some").iterdir():
        (ObjectPath("s3://bucket/faces") / file.name).write_bytes(file.read_bytes())
    with connected():
        for words in json.loads(sys.argv[1]):
            assert main(words[1:]) == 0, words
"""


@pytest.mark.usefixtures("bucket")
def test_the_commands_in_a_bucket_work_one_after_the_other(at: At) -> None:
    """In a process of their own, whose Ray has been told where the bucket is."""
    words = [sys.executable, "-c", SCRIPT, json.dumps([made_small(words) for words in IN_A_BUCKET])]
    ended = subprocess.run(words, cwd=at.folder, env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
