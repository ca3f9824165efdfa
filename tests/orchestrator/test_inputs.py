"""What an attack works on: every image once, each under a name of its own."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.inputs import fingerprint, list_inputs

CLASSES = ("male", "female")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_is_listed_recursively_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path / "b.png", tmp_path / "sub" / "a.JPG", tmp_path / "notes.txt")
    assert [item.name for item in list_inputs([tmp_path], classes=CLASSES)] == ["b.png", "sub/a.JPG"]


def test_a_file_named_by_itself_is_taken_whatever_it_is(tmp_path: Path) -> None:
    touch(tmp_path / "face")
    assert [item.name for item in list_inputs([tmp_path / "face"], classes=CLASSES)] == ["face"]


def test_names_and_triples_are_unique(tmp_path: Path) -> None:
    touch(
        tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "b" / "x.jpg", tmp_path / "b" / "new\nline.png"
    )
    items = list_inputs([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.png"], classes=CLASSES)
    assert [item.name for item in items] == ["a/x.png", "b/new\nline.png", "b/x.jpg", "b/x.png", "x.png"]
    triples = [item.triple for item in items]
    assert len(set(triples)) == 5
    assert triples[0] == "a/x"
    assert "\n" not in "".join(triples)


def test_a_name_that_is_no_utf8_becomes_one_that_is(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    assert [item.name for item in list_inputs([tmp_path], classes=CLASSES)] == ["\\xff.png"]


def test_labels_come_from_utkface_names_and_from_folders(tmp_path: Path) -> None:
    utkface = "25_1_0_20170116174525125.jpg.chip.jpg"
    touch(*(tmp_path / name for name in (utkface, f"men/{utkface}", "Woman/a.png", "0/b.png", "c.png")))
    by_name = {item.name: item.label for item in list_inputs([tmp_path], classes=CLASSES)}
    assert by_name == {utkface: 1, f"men/{utkface}": 1, "Woman/a.png": 1, "0/b.png": None, "c.png": None}
    by_folder = {item.name: item.label for item in list_inputs([tmp_path], classes=CLASSES, labels="folder")}
    assert by_folder[f"men/{utkface}"] == 0
    assert {item.label for item in list_inputs([tmp_path], classes=CLASSES, labels="none")} == {None}


def test_the_fingerprint_changes_with_a_name_or_a_label(tmp_path: Path) -> None:
    touch(tmp_path / "man" / "a.png")
    first = list_inputs([tmp_path], classes=CLASSES)
    assert fingerprint(first) == fingerprint(list_inputs([tmp_path], classes=CLASSES))
    assert fingerprint(first) != fingerprint(list_inputs([tmp_path], classes=CLASSES, labels="none"))
    touch(tmp_path / "man" / "b.png")
    assert fingerprint(first) != fingerprint(list_inputs([tmp_path], classes=CLASSES))


def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing"):
        list_inputs([tmp_path], classes=CLASSES)
    touch(tmp_path / "a.txt", tmp_path / "b.txt")
    with pytest.raises(UserError, match="2 files of which none ends in"):
        list_inputs([tmp_path], classes=CLASSES)
    with pytest.raises(UserError, match="does not exist"):
        list_inputs([tmp_path / "nowhere"], classes=CLASSES)
    with pytest.raises(UserError, match="no image was given"):
        list_inputs([], classes=CLASSES)
