"""What `data.faces` promises: every source read the same way, and nothing dropped in silence."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data import faces
from dxray.models.data.faces import Faces, FacesError, read
from dxray.models.data.images import encode_png
from tests.models.data.sources import check_contract, spec_of, write_folder


@pytest.mark.parametrize("kind", faces.READERS)
def test_every_reader_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    spec = spec_of(kind, tmp_path)
    result = read(spec)
    check_contract(result)
    assert len(result) == 30
    assert result.images.shape == (30, 1, 48, 48)
    assert result.classes == ("male", "female")
    assert np.bincount(result.labels).tolist() == [15, 15]
    assert result.source == spec
    assert result.skipped == ()
    assert read(spec).sha256() == result.sha256()


@pytest.mark.parametrize("kind", faces.READERS)
def test_every_reader_resizes_colours_and_turns_labels_round(kind: str, tmp_path: Path) -> None:
    spec = spec_of(kind, tmp_path)
    result = read(spec, size=24, channels=3)
    check_contract(result)
    assert result.images.shape == (30, 3, 24, 24)
    np.testing.assert_array_equal(result.images[:, 0], result.images[:, 2])
    assert result.images.std() > 0
    if kind in ("synthetic", "folder", "utkface"):  # tables number their classes themselves
        turned = read(spec, size=24, channels=3, classes=["woman", "man"])
        np.testing.assert_array_equal(turned.labels, 1 - result.labels)
        assert turned.classes == ("woman", "man")


@pytest.mark.parametrize("kind", faces.READERS)
def test_a_limit_takes_the_same_faces_every_time_and_a_larger_one_only_adds(kind: str, tmp_path: Path) -> None:
    spec = spec_of(kind, tmp_path)
    all_of_them, few, more = read(spec), read(spec, limit=5), read(spec, limit=12)
    for result in (few, more):
        check_contract(result)
    assert (len(few), len(more)) == (5, 12)
    assert set(few.names) < set(more.names) < set(all_of_them.names)
    whole = dict(zip(all_of_them.names.tolist(), range(30), strict=True))
    rows = [whole[name] for name in more.names.tolist()]
    np.testing.assert_array_equal(more.images, all_of_them.images[rows])
    np.testing.assert_array_equal(more.labels, all_of_them.labels[rows])
    np.testing.assert_array_equal(more.splits, all_of_them.splits[rows])


@pytest.mark.parametrize("kind", ["utkface", "folder", "parquet", "hf"])
def test_a_path_may_hold_colons_spaces_and_a_tilde(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a: home~"
    home.mkdir()
    spec = spec_of(kind, home)
    expected = read(spec)
    monkeypatch.setenv("HOME", str(home))
    inside = spec.partition(":")[2].removeprefix(str(home))
    short = read(f"{kind}:~{inside}")
    assert short.sha256() == expected.sha256()


def test_the_hash_knows_images_labels_and_names() -> None:
    names, splits = np.array(["a", "b"]), np.array(["train", "test"])
    images, labels = np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1])
    base = Faces(images, labels, names, splits, ("male", "female"), "x:1")
    others = [
        Faces(images + np.uint8(1), labels, names, splits, base.classes, "x:1"),
        Faces(images.reshape(2, 1, 2, 8), labels, names, splits, base.classes, "x:1"),
        Faces(images, labels[::-1], names, splits, base.classes, "x:1"),
        Faces(images, labels, np.array(["a", "c"]), splits, base.classes, "x:1"),
    ]
    assert len({faces.sha256() for faces in [base, *others]}) == 5
    assert Faces(images, labels, names, splits, base.classes, "elsewhere").sha256() == base.sha256()


def test_a_split_holds_its_rows_and_an_unknown_one_is_an_error() -> None:
    whole = read("synthetic:60", size=16)
    test = whole.split("test")
    assert 0 < len(test) < 60
    assert set(test.splits) == {"test"}
    np.testing.assert_array_equal(test.images, whole.images[whole.splits == "test"])
    np.testing.assert_array_equal(test.names, whole.names[whole.splits == "test"])
    with pytest.raises(FacesError, match="'dev': expected one of train, validation, test"):
        whole.split("dev")


def test_a_shuffled_split_holds_its_rows_in_an_order_that_stays() -> None:
    whole = read("synthetic:60", size=16)
    split, shuffled = whole.split("train"), whole.shuffled("train")
    assert sorted(shuffled.names) == list(split.names) != list(shuffled.names)
    place = {name: row for row, name in enumerate(split.names)}
    rows = [place[name] for name in shuffled.names]
    np.testing.assert_array_equal(shuffled.images, split.images[rows])
    np.testing.assert_array_equal(shuffled.labels, split.labels[rows])
    assert list(read("synthetic:60", size=16).shuffled("train").names) == list(shuffled.names)
    with pytest.raises(FacesError, match="'dev': expected one of"):
        whole.shuffled("dev")


def test_the_summary_counts_what_was_read_and_says_what_was_not(tmp_path: Path) -> None:
    root = write_folder(tmp_path, man=6, woman=6)
    (root / "man" / "bad.jpg").write_bytes(b"no image")
    for name in ("w", "x", "y", "z"):
        (root / "woman" / f"{name}.png").touch()
    summary = read(f"folder:{root}").summary()
    first, *rest = summary.splitlines()
    assert first == f"folder:{root}: 12 faces, 5 skipped"
    assert "skipped 4, an empty file (0 bytes): woman/w.png, woman/x.png, woman/y.png, ..." in summary
    assert "skipped 1, not an image: it begins with b'no image': man/bad.jpg" in summary
    assert [line.split()[0] for line in rest[-3:]] == ["train", "validation", "test"]
    assert sum(int(line.split()[1]) for line in rest[-3:]) == 12


def test_synthetic_faces_follow_their_seed() -> None:
    one, same, other = (read("synthetic:20", size=16, seed=seed) for seed in (1, 1, 2))
    assert one.sha256() == same.sha256()
    assert not set(one.names) & set(other.names)
    assert (one.images != other.images).any()


@pytest.mark.parametrize("count", ["0", "1", "-5", "many", "1.5"])
def test_a_count_of_synthetic_faces_is_a_number_from_2(count: str) -> None:
    with pytest.raises(FacesError, match=rf"synthetic:{count}: expected a number"):
        read(f"synthetic:{count}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 2}, "channels=2"),
        ({"limit": 0}, "limit=0"),
        ({"label": "race"}, "synthetic has no columns, so label='race'"),
        ({"classes": ["a"]}, "classes 'a': expected at least 2"),
        ({"classes": ["a", "A"]}, "classes 'a,A': expected at least 2 different"),
        ({"classes": ["cat", "dog"]}, "has the classes male and female, not cat, dog"),
        ({"size": (20, 30)}, "size 20 x 30: synthetic faces are square"),
        ({"size": 0}, "size=0"),
        ({"size": 4}, "cannot be drawn: size must be at least"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FacesError, match=sentence):
        read("synthetic:4", **options)


def test_images_without_a_label_are_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    png = encode_png(np.full((1, 48, 48), 100, np.uint8))
    for place in ("folder/male/a.png", "folder/female/b.png", "folder/c.png", "utkface/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(png)
    for gender in (0, 1):
        (tmp_path / "utkface" / f"20_{gender}_0_20170116174525125.jpg").write_bytes(png)
    columns = {"name": ["a.png", "b.png", "c.png"], "gender": ["male", "female", None], "image": [png] * 3}
    pq.write_table(pa.table(columns), tmp_path / "faces.parquet")
    for spec in (f"folder:{tmp_path}/folder", f"utkface:{tmp_path}/utkface", f"parquet:{tmp_path}/faces.parquet"):
        found = read(spec, unlabelled=True)
        assert sorted(found.labels) == [-1, 0, 1]
        assert list(found.names[found.labels < 0]) == ["c.png"]
        assert len(read(spec)) == 2
        assert [name for name, _ in read(spec).skipped] == ["c.png"]


def test_faces_that_are_known_are_not_opened_and_the_others_need_not_be_of_every_class(tmp_path: Path) -> None:
    png = encode_png(np.full((1, 48, 48), 100, np.uint8))
    for place in ("male/a.png", "female/b.png", "female/c.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(png)
    (tmp_path / "male/a.png").write_bytes(b"no longer an image")
    new = read(f"folder:{tmp_path}", known={"male/a.png", "female/b.png"})
    assert (list(new.names), list(new.labels), new.skipped) == (["female/c.png"], [1], ())
    none = read(f"folder:{tmp_path}", known={"male/a.png", "female/b.png", "female/c.png"})
    assert (len(none), none.images.shape) == (0, (0, 1, 48, 48))
