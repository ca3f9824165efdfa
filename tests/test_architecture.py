"""The house's rules: which room may import which, who knows Ray, and how large a room or a file may grow."""

import ast
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The rooms from the ground up, and the ones that each stands on: a room may import those, and all that is under them.
# A new room is one line here and a docstring in its __init__.py. `models.detection` and `models.generative` would stand
# beside `models.victims`, `attacks.blackbox` and `attacks.poisoning` beside `attacks.dx`, and `orchestrator.report`
# beside `orchestrator.reports`.
STANDS_ON: dict[str, tuple[str, ...]] = {
    "attacks.engine": (),
    "attacks.dx": ("attacks.engine",),
    "attacks": ("attacks.dx",),
    "models": (),
    "models.data": ("models",),
    "models.nets": ("models",),
    "models.training": ("models.data", "models.nets"),
    "models.victims": ("models.data", "models.nets"),
    "models.doctor": ("models.training", "models.victims"),
    "defenses": ("attacks", "models.doctor"),
    "orchestrator": ("defenses",),
    "orchestrator.runs": ("orchestrator",),
    "orchestrator.ray": ("orchestrator.runs",),
    "orchestrator.attack": ("orchestrator.ray",),
    "orchestrator.sweep": ("orchestrator.ray",),
    "orchestrator.hardening": ("orchestrator.attack", "orchestrator.sweep"),
    "orchestrator.reports": ("orchestrator.attack", "orchestrator.sweep"),
    "dxray": ("orchestrator.hardening", "orchestrator.reports"),  # what `import dxray` gives: the files of src/dxray
    "orchestrator.cli": ("orchestrator.hardening", "orchestrator.reports"),
}
ROOM_FILES = 17  # of which fifteen or so are what one sees at a glance; `cli` has one for each verb
FILE_LINES = 400
ANY_LENGTH = {"LICENSE", "constraints.txt", "PKG-INFO", "SOURCES.txt"}  # ours are none of these, or not written by hand
TEXT = {"", ".cfg", ".in", ".md", ".nft", ".py", ".service", ".sh", ".timer", ".toml", ".txt", ".yaml", ".yml"}
FOLDERS = ("attacks", "cluster", "defenses", "docs", "findings", "models", "orchestrator", "src", "tests", ".ci")
# Folders of tests that are no room's.
OTHER_TESTS = {"bench", "cluster", "soak"}


def folder_of(room: str) -> Path:
    return ROOT / "src" / "dxray" if room == "dxray" else ROOT.joinpath(*room.split("."))


def files_of(room: str) -> list[Path]:
    return sorted(folder_of(room).glob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """The full name of each thing that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{name.name}" for name in node.names)


def room_of(imported: str) -> str | None:
    """The room that an imported thing is in; None for what is not ours, and for the version, which is everyone's."""
    first, *parts = imported.split(".")
    if first != "dxray" or parts == ["__version__"]:
        return None
    rooms = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((room for room in rooms if room in STANDS_ON), "dxray")


def under(room: str) -> set[str]:
    found = set(STANDS_ON[room])
    return found.union(*map(under, found))


def test_every_package_is_a_room_of_the_table() -> None:
    tops = {room.partition(".")[0] for room in STANDS_ON} - {"dxray"}
    packages = {place.parent.relative_to(ROOT) for top in tops for place in (ROOT / top).rglob("__init__.py")}
    assert {".".join(package.parts) for package in packages} == set(STANDS_ON) - {"dxray"}
    assert {link.name for link in folder_of("dxray").iterdir() if link.is_symlink()} == tops


@pytest.mark.parametrize("room", STANDS_ON)
def test_a_room_stands_on_rooms_below_it_only(room: str) -> None:
    assert set(STANDS_ON[room]) <= set(takewhile(lambda below: below != room, STANDS_ON))


@pytest.mark.parametrize("room", STANDS_ON)
def test_a_room_imports_itself_and_what_is_under_it_only(room: str) -> None:
    for file in files_of(room):
        for name in imports(file):
            assert name.split(".")[0] not in {"", *FOLDERS}, f"{file.relative_to(ROOT)} imports {name}: say dxray.*"
            assert room_of(name) in {None, room} | under(room), f"{file.relative_to(ROOT)} imports {name}"


def test_ray_is_known_to_the_orchestrator_and_the_cluster_only() -> None:
    knowing = {room for room in STANDS_ON for file in files_of(room) if any(map(is_ray, imports(file)))}
    assert {room.partition(".")[0] for room in knowing} == {"orchestrator"}


def is_ray(imported: str) -> bool:
    return imported.split(".")[0] == "ray"


@pytest.mark.parametrize("room", [room for room in STANDS_ON if room.startswith("attacks")])
def test_attacks_touch_neither_files_nor_pictures(room: str) -> None:
    for file in files_of(room):
        assert not {name.split(".")[0] for name in imports(file)} & {"PIL", "pathlib", "os", "io", "pyarrow"}, file.name


@pytest.mark.parametrize("room", STANDS_ON)
def test_a_room_says_what_belongs_there_and_is_not_crowded(room: str) -> None:
    assert ast.get_docstring(ast.parse((folder_of(room) / "__init__.py").read_text()))
    assert len(files_of(room)) <= ROOM_FILES


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [*ROOT.glob("*"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*"))]
    texts = (file for file in files if file.suffix in TEXT and file.name not in ANY_LENGTH and file.is_file())
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in texts}
    assert {"README.md", "Makefile", "tests/test_architecture.py"} <= set(lengths)
    assert not {name: lines for name, lines in lengths.items() if lines > FILE_LINES}


def test_a_folder_of_tests_is_called_as_the_room_that_it_tests() -> None:
    tests = {file.parent.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")}
    rooms = {Path(*room.split(".")) for room in STANDS_ON}
    assert {place for place in tests if place.parts and place.parts[0] not in OTHER_TESTS} <= rooms
