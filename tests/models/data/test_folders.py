"""Folders of image files: UTKFace by its file names, and a sub-folder for each class."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dxray.models.data.faces import FacesError, read
from dxray.models.data.images import encode_png
from tests.models.data.sources import (
    REAL_FACES,
    check_contract,
    image,
    needs_real_faces,
    png,
    spec_of,
    write_folder,
)


def test_utkface_files_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    spec = spec_of("utkface", tmp_path)
    (tmp_path / "39_1_20170116174525125.jpg").write_bytes(png(1))
    (tmp_path / "39_1_0_20170116174525999.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    result = read(spec)
    assert len(result) == 30
    assert result.skipped == (
        ("39_1_0_20170116174525999.jpg", "truncated or damaged within its header"),
        ("39_1_20170116174525125.jpg", "the file name is not age_gender_race_datetime"),
        ("notes.txt", "not an image file name (.txt)"),
    )


def test_utkface_names_tell_age_and_race(tmp_path: Path) -> None:
    for name in ("39_1_0_20170116174525999.jpg", "7_0_4_20170116174525999.jpg", "21_0_2_20170116174525999.jpg"):
        (tmp_path / name).write_bytes(png(1))
    result = read(f"utkface:{tmp_path}", auxiliary=("age", "race", "height"))
    assert result.names.tolist()[0].startswith("21_")
    assert {name: values.tolist() for name, values in result.auxiliary.items()} == {"age": [1, 2, 0], "race": [1, 0, 2]}
    assert result._rows(np.array([2])).auxiliary["race"].tolist() == [2]


@pytest.mark.parametrize(
    "pair", [("man", "woman"), ("MEN", "Women"), ("male", "FEMALE"), ("0", "1"), ("m", "f"), ("M", "w")]
)
def test_folders_named_for_a_gender_need_no_classes(pair: tuple[str, str], tmp_path: Path) -> None:
    result = read(f"folder:{write_folder(tmp_path, **{pair[0]: 2, pair[1]: 3})}")
    assert np.bincount(result.labels).tolist() == [2, 3]


def test_the_order_of_classes_gives_the_labels_of_any_number_of_folders(tmp_path: Path) -> None:
    root = write_folder(tmp_path, cat=1, dog=2, Newt=3)
    result = read(f"folder:{root}", classes=["newt", "cat", "dog"])
    assert result.classes == ("newt", "cat", "dog")
    assert np.bincount(result.labels).tolist() == [3, 1, 2]
    np.testing.assert_array_equal(result.images[result.names == "cat/000.png"][0], image(0))
    np.testing.assert_array_equal(result.images[result.names == "dog/001.png"][0], image(101))


def test_images_are_found_at_any_depth_and_each_belongs_to_its_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "faces", man=1, woman=1)
    deep = root / "woman" / "x.jpg" / "y"  # a directory may be called x.jpg
    deep.mkdir(parents=True)
    (deep / "z.PNG").write_bytes(png(7, side=30))
    (deep / os.fsdecode(b"\xff.png")).write_bytes(png(8))
    (root / ".thumbnails").mkdir()
    (root / "woman" / "._000.png").write_bytes(b"a resource fork")
    (root / "readme.md").touch()
    elsewhere = write_folder(tmp_path / "elsewhere", more=2)
    (root / "men").symlink_to(elsewhere / "more")
    result = read(f"folder:{root}", size=30)
    check_contract(result)
    assert result.names.tolist() == [
        "man/000.png",
        "men/000.png",
        "men/001.png",
        "woman/000.png",
        "woman/x.jpg/y/\\xff.png",
        "woman/x.jpg/y/z.PNG",
    ]
    assert result.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(result.images[-1], image(7, side=30))
    assert result.skipped == (("readme.md", "not in the sub-folder of a class"),)


def test_many_images_keep_their_labels_and_names_through_the_threads(tmp_path: Path) -> None:
    for c, name in enumerate(("man", "woman")):
        (tmp_path / name).mkdir()
        for i in range(150):
            (tmp_path / name / f"{i:03d}.png").write_bytes(encode_png(np.full((8, 8), i + 100 * c, np.uint8)))
    for broken in (0, 63, 64, 149):
        (tmp_path / "man" / f"{broken:03d}.png").write_bytes(b"?")
    result = read(f"folder:{tmp_path}", size=8)
    assert [name for name, _ in result.skipped] == [f"man/{i:03d}.png" for i in (0, 63, 64, 149)]
    assert len(result) == 296
    for name, label, pixels in zip(result.names.tolist(), result.labels, result.images, strict=True):
        assert (pixels == int(name[-7:-4]) + 100 * label).all()


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"folder:{write_folder(tmp_path, man=9, woman=9)}"
    expected = read(spec).sha256()
    scandir = os.scandir

    @contextmanager
    def backwards(path: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    assert read(spec).sha256() == expected


def test_a_folder_that_may_not_be_opened_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"folder:{write_folder(tmp_path, man=2, woman=2)}"
    (tmp_path / "man" / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # the superuser may open everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FacesError, match=r"Permission denied: .*closed"):
        read(spec)


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    for name in ("elsewhere", "faces"):
        (tmp_path / name).mkdir()
    spec = spec_of("utkface", tmp_path / "elsewhere")
    for name, target in (("part1", "elsewhere"), ("part2", "elsewhere"), ("back", "faces"), ("self", "faces/self")):
        (tmp_path / "faces" / name).symlink_to(tmp_path / target)
    linked = read(f"utkface:{tmp_path / 'faces'}")
    assert linked.names.tolist() == [f"part1/{name}" for name in read(spec).names]  # once, under the first of its names


def test_a_link_out_of_a_class_does_not_take_the_other_class_in(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "faces", man=2, woman=2)
    write_folder(tmp_path / "more", deep=1)
    (root / "man" / "up").symlink_to(root)
    (root / "man" / "more").symlink_to(tmp_path / "more")
    result = read(f"folder:{root}")
    assert result.names[result.labels == 0].tolist() == ["man/000.png", "man/001.png", "man/more/deep/000.png"]
    assert result.names[result.labels == 1].tolist() == ["woman/000.png", "woman/001.png"]


def test_files_without_an_ending_are_looked_into(tmp_path: Path) -> None:
    root = write_folder(tmp_path, man=1, woman=1)
    (root / "man" / "000.png").rename(root / "man" / "face")
    (root / "man" / "notes").write_text("not a picture")
    result = read(f"folder:{root}")
    assert result.names.tolist() == ["man/face", "woman/000.png"]
    assert result.skipped == (("man/notes", "not an image"),)


def test_the_results_of_a_run_are_no_faces(tmp_path: Path) -> None:
    root = write_folder(tmp_path, man=1, woman=1)
    write_folder(root / "man" / "run", triples=2)
    (root / "man" / "run" / "attack.json").touch()
    assert read(f"folder:{root}").names.tolist() == ["man/000.png", "woman/000.png"]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("Training", "Validation", "Testing"), ("train", "VAL", "test"), ("Train", "dev", "TEST")],
)
def test_folders_called_like_splits_are_the_splits_of_what_lies_below(
    train: str, validation: str, test: str, tmp_path: Path
) -> None:
    for name in (train, validation, test):
        write_folder(tmp_path / name, female=3, male=2)
    result = read(f"folder:{tmp_path}")
    assert result.classes == ("male", "female")
    for name, split in ((train, "train"), (validation, "validation"), (test, "test")):
        part = result.split(split)
        assert np.bincount(part.labels).tolist() == [2, 3]
        assert all(face.startswith(f"{name}/") for face in part.names)


def test_what_a_split_holds_outside_of_its_classes_is_listed_as_are_empty_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "Training", female=3, male=2)
    write_folder(tmp_path / "Validation", female=1, male=1)
    (tmp_path / "Validation" / "loose.png").write_bytes(png(1))
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").touch()
    result = read(f"folder:{tmp_path}")
    assert len(result) == 7
    assert result.skipped == (
        ("Validation/loose.png", "not in the sub-folder of a class"),
        ("empty/", "a folder without an image"),
    )
    assert "skipped 1, a folder without an image: empty/" in result.summary()


def test_the_splits_of_other_classes_are_never_offered_as_classes(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_folder(tmp_path / "data" / name, cat=2, dog=2)
    with pytest.raises(FacesError, match=r"sub-folder 'cat', .* --classes cat,dog$"):
        read(f"folder:{tmp_path / 'data'}")
    assert read(f"folder:{tmp_path / 'data'}", classes="cat,dog").classes == ("cat", "dog")
    with pytest.raises(FacesError, match=r"sub-folder 'data', .* classes write folder:.*/data$"):
        read(f"folder:{tmp_path}")


def test_utkface_in_folders_of_splits_keeps_them(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / f"{20 + i}_{i % 2}_0_20170116174525{i:03d}.jpg").write_bytes(png(i))
    result = read(f"utkface:{tmp_path}")
    assert {name.split("/")[0] for name in result.split("test").names} == {"test"}
    assert len(result.split("test")) == 8


@needs_real_faces
def test_the_utkface_jpegs_agree_with_the_table() -> None:
    files = read(f"utkface:{REAL_FACES / 'utkface_sample'}", limit=60)
    table = read(f"parquet:{REAL_FACES / 'utkface48.parquet'}")
    assert [name for name, _ in files.skipped] == [
        "39_1_20170116174525125.jpg.chip.jpg",
        "61_1_20170109142408075.jpg.chip.jpg",
    ]
    rows = np.searchsorted(table.names, files.names)
    np.testing.assert_array_equal(table.names[rows], files.names)
    np.testing.assert_array_equal(table.images[rows], files.images)
    np.testing.assert_array_equal(table.labels[rows], files.labels)


@needs_real_faces
def test_the_web_faces_are_read_by_their_folders() -> None:
    result = read(f"folder:{REAL_FACES / 'web_faces'}", limit=40)
    check_contract(result)
    assert len(result) + len(result.skipped) == 40
    assert {name.split("/")[0] for name in result.names[result.labels == 1].tolist()} == {"woman"}
