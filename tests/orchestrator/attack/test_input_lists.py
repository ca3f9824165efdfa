"""The list of inputs on disk: read by row, compared with what is there now, added to."""

from pathlib import Path

import pytest

from dxray.orchestrator.attack import input_lists
from dxray.orchestrator.attack.input_lists import difference, fresh, read_list, write_list
from dxray.orchestrator.attack.inputs import Input, list_inputs
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import write_bytes

CLASSES = ("male", "female")


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_lists, "_GROUP", 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.jpg", "sub/a.png", "sub/men/d.png", "e.png", "f.png", "g.png"):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).touch()
    return tmp_path / "faces"


def listed(folder: Path) -> list[Input]:
    return list(list_inputs([folder], classes=CLASSES))


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (0, 1), (2, 3), (1, 7), (3, 6), (5, 8), (7, 8)])
def test_any_stretch_of_the_list_can_be_read(folder: Path, tmp_path: Path, start: int, stop: int) -> None:
    write_list(tmp_path, 0, listed(folder))
    assert list(read_list(tmp_path, 0, start, stop)) == listed(folder)[start:stop]


def test_what_is_written_is_counted_and_known_again(folder: Path, tmp_path: Path) -> None:
    first = write_list(tmp_path, 0, listed(folder))
    assert (first.inputs, first.labelled) == (8, 1)
    assert write_list(tmp_path, 1, listed(folder)) == first
    assert write_list(tmp_path, 2, listed(folder)[1:]).sha256 != first.sha256
    assert difference(tmp_path, 1, listed(folder)) is None


def test_the_difference_is_named(folder: Path, tmp_path: Path) -> None:
    write_list(tmp_path, 0, listed(folder))
    (folder / "bb.png").touch()
    assert difference(tmp_path, 1, listed(folder)) == "'bb.png' is new"
    (folder / "bb.png").unlink()
    (folder / "c.jpg").unlink()
    assert difference(tmp_path, 1, listed(folder)) == "'c.jpg' is gone"
    (folder / "c.jpg").touch()
    (folder / "sub" / "men" / "d.png").unlink()
    assert difference(tmp_path, 1, listed(folder)) == "'sub/men/d.png' is gone"
    (folder / "sub" / "men" / "d.png").touch()
    other = list(list_inputs([folder], classes=CLASSES, labels="none"))
    assert difference(tmp_path, 1, other) == "'sub/men/d.png' has another label"
    moved = [item._replace(path=b"/elsewhere") if item.name == "e.png" else item for item in listed(folder)]
    assert difference(tmp_path, 1, moved) == "'e.png' has another place"


def test_new_inputs_are_a_list_of_their_own(folder: Path, tmp_path: Path) -> None:
    write_list(tmp_path, 0, listed(folder))
    for name in ("a.jpg", "sub/z.png"):  # the first shares its triple with one that is there
        (folder / name).touch()
    write_list(tmp_path, 1, fresh(tmp_path, 1, listed(folder)))
    assert [item.name for item in read_list(tmp_path, 1)] == ["a.jpg", "sub/z.png"]
    triples = [item.triple for number in (0, 1) for item in read_list(tmp_path, number)]
    assert len(set(triples)) == 10
    assert difference(tmp_path, 2, listed(folder)) is None
    (folder / "sub" / "z.png").unlink()
    assert difference(tmp_path, 2, listed(folder)) == "'sub/z.png' is gone"
    assert list(fresh(tmp_path, 2, listed(folder))) == []


def test_the_triple_of_one_that_is_gone_is_not_taken_by_one_that_is_new(folder: Path, tmp_path: Path) -> None:
    write_list(tmp_path, 0, listed(folder))
    (folder / "c.jpg").rename(folder / "c.png")
    write_list(tmp_path, 1, fresh(tmp_path, 1, listed(folder)))
    (new,) = read_list(tmp_path, 1)
    assert new.name == "c.png"
    assert new.triple.startswith("c-")
    (folder / "c.png").rename(folder / "c.bmp")
    (newer,) = fresh(tmp_path, 2, listed(folder))
    assert newer.triple not in ("c", new.triple)


def test_a_list_that_is_damaged_is_said(tmp_path: Path) -> None:
    write_bytes(input_lists.list_file(tmp_path, 0), b"no Parquet")
    with pytest.raises(UserError, match=r"list-00000.parquet' cannot be read"):
        list(read_list(tmp_path, 0))
