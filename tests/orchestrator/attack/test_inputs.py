"""What an attack works on: every image once, each under a name of its own."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.orchestrator.attack import inputs
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import write_bytes

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
    items = list(list_inputs([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.png"], classes=CLASSES))
    assert [item.name for item in items] == ["a/x.png", "b/new\nline.png", "b/x.jpg", "b/x.png", "x.png"]
    triples = [item.triple for item in items]
    assert len(set(triples)) == 5
    assert triples[0] == "a/x"
    assert "\n" not in "".join(triples)


def test_no_triple_leads_out_of_its_folder(tmp_path: Path) -> None:
    """Neither of files that share a name, and so go by their whole path, nor of paths that lead up."""
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "lists" / "c.png")
    (tmp_path / "lists" / "faces.txt").write_text("../a/1.png\n_/a/1.png\n/b/1.png\nc.png\n")
    files = list_inputs([tmp_path / "a" / "1.png", tmp_path / "b" / ".." / "b" / "1.png"], classes=CLASSES)
    lines = list_inputs([f"list:{tmp_path / 'lists' / 'faces.txt'}"], classes=CLASSES)
    for items in (list(files), list(lines)):
        triples = [Path(item.triple) for item in items]
        assert len(set(triples)) == len(items)
        assert not any(triple.is_absolute() or ".." in triple.parts for triple in triples)


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


def names(*places: object, **how: Any) -> list[str]:
    return [item.name for item in list_inputs([str(place) for place in places], classes=CLASSES, **how)]


def test_folders_of_one_name_keep_their_images_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "faces" / "x.png", tmp_path / "b" / "faces" / "x.png")
    found = names(tmp_path / "a" / "faces", tmp_path / "b" / "faces")
    assert len(set(found)) == 2
    assert all(name.endswith("faces/x.png") for name in found)


def test_a_place_named_twice_is_taken_once(tmp_path: Path) -> None:
    touch(tmp_path / "x.png")
    assert names(tmp_path, tmp_path) == ["x.png"]
    assert names(tmp_path / "x.png", tmp_path / "x.png") == ["x.png"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "faces" / "x.png", tmp_path / "elsewhere" / "y.png")
    (tmp_path / "faces" / "back").symlink_to(tmp_path / "faces")
    (tmp_path / "faces" / "self.png").symlink_to(tmp_path / "faces" / "self.png")
    (tmp_path / "faces" / "there").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "faces") == ["self.png", "x.png", "there/y.png"]


def test_a_folder_called_like_an_image_is_a_row_and_its_images_are_too(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg" / "x.png")
    assert names(tmp_path) == ["a.jpg", "a.jpg/x.png"]


def test_a_pattern_is_listed_as_what_it_matches(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a/x.png", "a/y.jpg", "b/x.png", "b/deep/z.png", "c.txt")))
    assert names(f"{tmp_path}/*/*.png") == ["a/x.png", "b/x.png"]
    assert names(f"{tmp_path}/**/*.png") == ["a/x.png", "b/deep/z.png", "b/x.png"]
    assert names(f"{tmp_path}/b*") == ["b/deep/z.png", "b/x.png"]


def test_a_pattern_of_any_depth_ends_where_links_lead_back(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a/x.png", "a/b/y.png", "a/b/[1]/z.png")))
    for name in ("one", "two"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
    assert names(f"{tmp_path}/a/**/*.png") == ["b/[1]/z.png", "b/y.png", "x.png"]
    assert names(f"{tmp_path}/**/b/**") == ["a/b/[1]/z.png", "a/b/y.png"]


def test_what_runs_wrote_is_no_input_but_where_it_is_named(tmp_path: Path) -> None:
    run = tmp_path / "faces" / "runs" / "attack"
    touch(tmp_path / "faces" / "x.png", run / "attack.json", run / "sheet.png", run / "triples" / "deep" / "y.png")
    for place in ("faces", "faces/*", "faces/**/*.png", "faces/runs*/../*", "fac*/**"):
        assert [Path(name).name for name in names(tmp_path / place)] == ["x.png"], place
    assert names(run / "triples") == ["deep/y.png"]
    assert names(run) == ["sheet.png", "triples/deep/y.png"]
    assert names(tmp_path / "faces" / "runs" / "*" / "triples" / "*" / "*.png") == ["attack/triples/deep/y.png"]
    with pytest.raises(UserError, match="holds no images but those that runs wrote"):
        names(tmp_path / "faces" / "runs")
    table(tmp_path / "faces" / "f.parquet", image=[b"x"])
    write_bytes(run / "images" / "part-00000.parquet", b"a part")
    assert names(f"parquet:{tmp_path / 'faces'}") == ["f/row/000000000"]


def test_a_list_names_paths_from_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.png", tmp_path / "y.png")
    (tmp_path / "faces.txt").write_text(f"a/x.png\n\n{tmp_path}/y.png\ns3://bucket/z.png\na/x.png\n")
    items = list(list_inputs([f"list:{tmp_path / 'faces.txt'}"], classes=CLASSES))
    assert [item.path.decode() for item in items] == [f"{tmp_path}/a/x.png", "s3://bucket/z.png", f"{tmp_path}/y.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_first_path(tmp_path: Path, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "faces.txt").write_bytes(mark + "a/\xe4.png\r\nb.png\r\n".encode(encoding))
    items = list(list_inputs([f"list:{tmp_path / 'faces.txt'}"], classes=CLASSES))
    assert [item.path.decode() for item in items] == [f"{tmp_path}/a/\xe4.png", f"{tmp_path}/b.png"]


def test_what_is_passed_over_is_counted_by_ending(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.png", "b.HEIC", "c.TXT", "sub/d.txt", "sub/e.zip", "notes", ".hidden.png")))
    (tmp_path / "face").write_bytes(b"\xff\xd8\xff\xe0")
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to: it must not be opened
    passed_over: Counter[str] = Counter()
    items = list(list_inputs([tmp_path], classes=CLASSES, passed_over=passed_over))
    assert [item.name for item in items] == ["a.png", "b.HEIC", "face"]
    assert passed_over == {".txt": 2, ".zip": 1, "without an ending": 2, "hidden": 1}


def test_linked_folders_of_tables_are_listed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "elsewhere").mkdir()
    table(tmp_path / "elsewhere" / "f.parquet", image=[b"x"])
    for name, target in (("there", "elsewhere"), ("also", "elsewhere"), ("back", "tables")):
        (tmp_path / "tables" / name).symlink_to(tmp_path / target)
    assert names(f"parquet:{tmp_path / 'tables'}") == ["also/f/row/000000000"]


def test_many_names_are_sorted_over_the_bounds_of_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "SIZE", 2)
    touch(*(tmp_path / f"{i:02}.{ending}" for i in range(7) for ending in ("png", "jpg")))
    items = list(list_inputs([tmp_path], classes=CLASSES))
    assert [item.name for item in items] == [f"{i:02}.{ending}" for i in range(7) for ending in ("jpg", "png")]
    assert len({item.triple for item in items}) == 14


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_a_table_is_listed_by_its_names_and_labels(tmp_path: Path) -> None:
    file = table(tmp_path / "f.parquet", name=["c", "a", "b/\n"], image=[b"x"] * 3, gender=["female", "m", None])
    items = list(list_inputs([f"parquet:{file}"], classes=CLASSES))
    assert [(item.name, item.row, item.label) for item in items] == [("c", 0, 1), ("a", 1, 0), ("b/\n", 2, None)]
    assert {item.path for item in items} == {f"parquet:{file}".encode()}
    assert "\n" not in "".join(item.triple for item in items)


@pytest.mark.parametrize("columns", [{}, {"name": ["a", "a", "b"]}, {"name": ["a", None, "b"]}])
def test_rows_without_names_of_their_own_are_numbered(tmp_path: Path, columns: dict[str, Any]) -> None:
    for name in ("b", "c/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table(tmp_path / f"{name}.parquet", image=[b"x"] * 3, **columns)
    before = list(list_inputs([f"parquet:{tmp_path}/"], classes=CLASSES))
    assert [item.name for item in before] == [f"{name}/row/{i:09d}" for name in ("b", "c/d") for i in range(3)]
    assert [item.row for item in before] == [0, 1, 2, 0, 1, 2]
    assert names(f"parquet:{tmp_path / 'b.parquet'}") == [f"row/{i:09d}" for i in range(3)]
    table(tmp_path / "a.parquet", image=[b"x"] * 2)
    assert list(list_inputs([f"parquet:{tmp_path}"], classes=CLASSES))[2:] == before


def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing"):
        list(list_inputs([tmp_path], classes=CLASSES))
    touch(tmp_path / "a.txt", tmp_path / "b.txt")
    with pytest.raises(UserError, match="2 files of which none ends in"):
        list(list_inputs([tmp_path], classes=CLASSES))
    with pytest.raises(UserError, match="matches no file"):
        list(list_inputs([tmp_path / "*.png"], classes=CLASSES))
    with pytest.raises(UserError, match=r"list:.*cannot be read"):
        list(list_inputs([f"list:{tmp_path / 'nowhere'}"], classes=CLASSES))
    with pytest.raises(UserError, match=r"parquet:.* does not exist"):
        list(list_inputs([f"parquet:{tmp_path / 'nowhere'}"], classes=CLASSES))
    with pytest.raises(UserError, match="not a Parquet file"):
        list(list_inputs([f"parquet:{tmp_path / 'a.txt'}"], classes=CLASSES))
    with pytest.raises(UserError, match="no column 'image', only picture"):
        list(list_inputs([f"parquet:{table(tmp_path / 'p.parquet', picture=[b''])}"], classes=CLASSES))
    numbers = table(tmp_path / "n.parquet", image=[[0, 255]])
    with pytest.raises(UserError, match="images of type list<element: int64>, expected binary"):
        list(list_inputs([f"parquet:{numbers}"], classes=CLASSES))
    with pytest.raises(UserError, match="images of type struct<path: string>, expected binary"):
        list(list_inputs([f"parquet:{table(tmp_path / 's.parquet', image=[{'path': 'a'}])}"], classes=CLASSES))
    with pytest.raises(UserError, match="nowhere://a' cannot be opened"):
        list(list_inputs(["nowhere://a"], classes=CLASSES))
    with pytest.raises(UserError, match="does not exist"):
        list(list_inputs([tmp_path / "nowhere"], classes=CLASSES))
    with pytest.raises(UserError, match="no image was given"):
        list(list_inputs([], classes=CLASSES))
