"""What `data.faces` promises: every source read the same way, nothing dropped in silence, splits that stay put."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data import faces
from dxray.models.data.class_names import FEW, class_index, label_of_utkface
from dxray.models.data.faces import Faces, FacesError, read, split_of
from dxray.models.data.images import encode_png

REAL_FACES = Path(__file__).resolve().parents[3].parent / "shared" / "faces"
needs_real_faces = pytest.mark.skipif(
    not (REAL_FACES / "utkface48.parquet").is_file(), reason="the real faces (../shared/faces) are not on this machine"
)


def image(number: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (1, side, side), dtype=np.uint8)


def png(number: int, side: int = 48) -> bytes:
    return encode_png(image(number, side))


def write_folder(root: Path, **classes: int) -> Path:
    """A sub-folder per class with that many 48x48 images; image i of the c-th class is ``image(100 * c + i)``."""
    for c, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03d}.png").write_bytes(png(100 * c + i))
    return root


def write_table(file: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), file)
    return f"parquet:{file}"


def raw_table(file: Path, count: int = 10, **columns: Any) -> str:
    """A table like the UTKFace one: raw images, genders that alternate."""
    default = {
        "name": [f"face{i:03d}" for i in range(count)],
        "gender": pa.array([i % 2 for i in range(count)], pa.int8()),
        "image": [image(i).tobytes() for i in range(count)],
    }
    return write_table(file, **{name: values for name, values in (default | columns).items() if values is not None})


def check_contract(result: Faces) -> None:
    """What holds for the faces of every reader."""
    count = len(result)
    assert result.images.dtype == np.uint8
    assert result.images.shape[0] == count
    assert result.images.ndim == 4
    assert result.labels.dtype == np.int64
    assert result.labels.shape == (count,)
    assert set(result.labels) <= set(range(len(result.classes)))
    assert result.names.tolist() == sorted(set(result.names.tolist()))
    assert set(result.splits.tolist()) <= set(faces.SPLITS)
    assert sum(len(result.split(name)) for name in faces.SPLITS) == count


# ---- every reader


def spec_of(kind: str, tmp_path: Path) -> str:
    """A source of each kind with 30 faces or so, of both genders."""
    if kind == "synthetic":
        return "synthetic:30"
    if kind == "folder":
        return f"folder:{write_folder(tmp_path / 'faces', man=15, woman=15)}"
    if kind == "utkface":
        for i in range(30):
            (tmp_path / f"{20 + i}_{i % 2}_0_20170116174525{i:03d}.jpg.chip.jpg").write_bytes(png(i))
        return f"utkface:{tmp_path}"
    if kind == "parquet":
        return raw_table(tmp_path / "faces.parquet", 30)
    return f"hf:{save_hf(tmp_path / 'saved', 30)}"


def save_hf(root: Path, count: int, genders: list[Any] | None = None, feature: Any = None) -> Path:
    """A Hugging Face data set without splits, saved as save_to_disk does."""
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in range(count)],
        "gender": genders or [i % 2 for i in range(count)],
    }
    gender = feature or datasets.ClassLabel(names=["Male", "Female"])
    features = datasets.Features({"image": datasets.Image(), "gender": gender})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(root))
    return root


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


# ---- Faces


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


# ---- splits


def test_splits_are_fixed_for_all_time() -> None:
    assert [split_of(f"face{i}") for i in (0, 1, 2, 3)] == ["train"] * 4
    assert [split_of(f"face{i}") for i in (15, 20, 24, 25)] == ["validation"] * 4
    assert [split_of(f"face{i}") for i in (39, 43, 53)] == ["test"] * 3


def test_splits_have_the_sizes_asked_for_and_nest() -> None:
    names = [f"{i}" for i in range(5000)]
    counts = {split: sum(split_of(name) == split for name in names) for split in faces.SPLITS}
    assert counts["train"] == pytest.approx(4000, abs=100)
    assert counts["validation"] == pytest.approx(500, abs=70)
    assert counts["test"] == pytest.approx(500, abs=70)
    assert {split_of(name, validation=0, test=0) for name in names} == {"train"}
    assert {split_of(name, validation=0, test=1) for name in names} == {"test"}


def test_a_face_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    root = write_folder(tmp_path, man=20, woman=20)
    before = read(f"folder:{root}")
    for i in range(20):
        (root / "man" / f"added{i}.png").write_bytes(png(i))
    after = read(f"folder:{root}")
    kept = np.isin(after.names, before.names)
    assert len(after) == 60
    np.testing.assert_array_equal(after.names[kept], before.names)
    np.testing.assert_array_equal(after.splits[kept], before.splits)


def test_a_limit_is_independent_of_the_split(tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 2000, image=[bytes(16)] * 2000)
    few = read(spec, size=4, limit=300)
    assert len(few.split("train")) == pytest.approx(240, abs=30)
    assert len(few.split("test")) == pytest.approx(30, abs=20)


@pytest.mark.parametrize(
    ("own", "made"),
    [
        (("train", "test"), {"validation"}),
        (("train", "val"), {"test"}),
        (("training",), {"validation", "test"}),
        (("Train", "Validation", "Testing"), set()),
        (("test",), set()),
    ],
)
def test_splits_a_source_lacks_come_out_of_its_training_rows_only(
    own: tuple[str, ...], made: set[str], tmp_path: Path
) -> None:
    meant = {"val": "validation", "training": "train", "testing": "test"}
    names = [f"face{i:03d}" for i in range(300)]
    column = [own[i // 2 % len(own)] for i in range(300)]
    result = read(raw_table(tmp_path / "t.parquet", 300, name=names, split=column, image=[bytes(16)] * 300), size=4)
    for name, word, split in zip(names, column, result.splits.tolist(), strict=True):
        word = meant.get(word.casefold(), word.casefold())
        assert split == word or (word == "train" and split in made), name
    expected = {meant.get(word.casefold(), word.casefold()) for word in own} | made
    assert set(result.splits.tolist()) == expected


def test_a_split_of_another_name_is_an_error(tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 2, split=["train", "holdout"])
    with pytest.raises(FacesError, match="a split 'holdout', expected train, validation, test"):
        read(spec)


# ---- synthetic


def test_synthetic_faces_follow_their_seed() -> None:
    one, same, other = (read("synthetic:20", size=16, seed=seed) for seed in (1, 1, 2))
    assert one.sha256() == same.sha256()
    assert not set(one.names) & set(other.names)
    assert (one.images != other.images).any()


@pytest.mark.parametrize("count", ["0", "1", "-5", "many", "1.5"])
def test_a_count_of_synthetic_faces_is_a_number_from_2(count: str) -> None:
    with pytest.raises(FacesError, match=rf"synthetic:{count}: expected a number"):
        read(f"synthetic:{count}")


# ---- utkface


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("25_0_2_20170116174525125.jpg.chip.jpg", 0),
        ("25_1_2_20170116174525125.jpg.chip.jpg", 1),
        ("1_1_4_20161219140627985.png", 1),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 0),  # three spellings the published set has
        ("55_0_0_20170116232725357jpg.chip.jpg", 0),
        ("61_1_20170109142408075.jpg.chip.jpg", None),  # a field missing: is the 1 a gender or a race?
        ("53__0_20170116184028385.jpg", None),
        ("25_3_2_20170116174525125.jpg", None),
        ("25_1_7_20170116174525125.jpg", None),
        ("25_1_2_0_20170116174525125.jpg", None),
        ("face.jpg", None),
    ],
)
def test_a_utkface_name_gives_its_gender_only_if_complete(name: str, label: int | None) -> None:
    assert label_of_utkface(name) == label


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


# ---- folder


@pytest.mark.parametrize(
    ("text", "classes", "index"),
    [
        ("Woman", ("male", "female"), 1),
        ("female", ("woman", "man"), 0),
        (" M ", ("male", "female"), 0),
        ("1", ("cat", "dog"), 1),
        ("1", ("1", "0"), 0),  # a name before a number
        ("2", ("cat", "dog"), None),
        ("horse", ("male", "female"), None),
        ("man", ("cat", "dog"), None),
        ("", ("male", "female"), None),
    ],
)
def test_a_word_means_a_class(text: str, classes: tuple[str, ...], index: int | None) -> None:
    assert class_index(text, classes) == index


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
    walk = os.walk

    def backwards(*args: Any, **options: Any) -> Any:
        for parent, folders, files in walk(*args, **options):
            yield parent, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert read(spec).sha256() == expected


# ---- parquet


def test_raw_images_come_through_bit_for_bit_in_any_order_of_rows(tmp_path: Path) -> None:
    names = [f"face{i:04d}" for i in range(4500)]  # more than one batch
    order = np.random.default_rng(0).permutation(4500)
    pixels = np.random.default_rng(1).integers(0, 256, (4500, 6, 6), dtype=np.uint8)
    pixels[order[3], 0, :2] = np.frombuffer(b"BM", np.uint8)  # as a BMP file begins
    spec = write_table(
        tmp_path / "t.parquet",
        name=[names[i] for i in order],
        gender=[int(i % 2) for i in order],
        image=[pixels[i].tobytes() for i in order],
    )
    result = read(spec, size=6)
    assert result.names.tolist() == names
    np.testing.assert_array_equal(result.images[:, 0], pixels)
    np.testing.assert_array_equal(result.labels, np.arange(4500) % 2)


@pytest.mark.parametrize("form", ["bytes", "struct", "struct without path", "large", "fixed"])
def test_images_may_be_stored_in_any_of_these_forms(form: str, tmp_path: Path) -> None:
    data = [png(i) for i in range(10)]
    column: Any = {
        "bytes": lambda: data,
        "struct": lambda: [{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(data)],
        "struct without path": lambda: [{"bytes": cell} for cell in data],
        "large": lambda: pa.array(data, pa.large_binary()),
        "fixed": lambda: pa.array([image(i).tobytes() for i in range(10)], pa.binary(2304)),
    }[form]()
    result = read(raw_table(tmp_path / "t.parquet", image=column))
    np.testing.assert_array_equal(result.images, np.stack([image(i) for i in range(10)]))


def test_an_image_stored_as_a_path_is_found_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(3))
    cells = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    result = read(raw_table(tmp_path / "t.parquet", 3, image=cells))
    np.testing.assert_array_equal(result.images[1], image(3))
    assert result.skipped == (("face002", "does not exist"),)


@pytest.mark.parametrize("raw", [True, False])
def test_rows_without_image_or_label_are_listed(raw: bool, tmp_path: Path) -> None:
    cells: list[bytes | None] = [image(i).tobytes() if raw else png(i) for i in range(10)]
    cells[0] = cells[6] = None
    genders = [None, 1, 0, 1, 0, 1, 0, 1, 0, None]
    result = read(raw_table(tmp_path / "t.parquet", image=cells, gender=genders))
    assert result.names.tolist() == [f"face{i:03d}" for i in (1, 2, 3, 4, 5, 7, 8)]
    assert result.labels.tolist() == [1, 0, 1, 0, 1, 1, 0]
    np.testing.assert_array_equal(result.images[5], image(7))
    assert result.skipped == (("face000", "no gender"), ("face006", "no image stored"), ("face009", "no gender"))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array([30, None, 7, 7], pa.int8()), [1, -1, 0, 0]),
        (pa.array([0.5, float("nan"), 7, -1]), [1, -1, 2, 0]),
        (pa.array(["old", None, "young", "old"]), [0, -1, 1, 0]),
        (pa.array(["b", "a", "b", "c"]).dictionary_encode(), [1, 0, 1, 2]),
        (pa.array([True, False, None, True]), [1, 0, -1, 1]),
    ],
)
def test_further_columns_are_read_where_they_are_asked_for(values: pa.Array, found: list[int], tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 4, age=values)
    assert read(spec).auxiliary == {}
    result = read(spec, auxiliary=("age", "height"))
    assert {name: told.tolist() for name, told in result.auxiliary.items()} == {"age": found}
    gaps = raw_table(tmp_path / "u.parquet", 4, age=values, gender=[0, None, 1, 0])
    assert read(gaps, auxiliary=("age",)).auxiliary["age"].tolist() == [found[0], found[2], found[3]]


def test_of_many_words_the_most_frequent_are_classes_and_the_others_unknown(tmp_path: Path) -> None:
    words = [f"{i:02d}" for i in range(FEW + 3)] * 2
    del words[5], words[0]  # so that 00 and 05 are there once, as is the very last
    words.append("last")
    told = read(raw_table(tmp_path / "t.parquet", len(words), place=words), auxiliary=("place",)).auxiliary["place"]
    frequent = [f"{i:02d}" for i in range(FEW + 3) if i not in (0, 5)][:FEW]
    assert told.tolist() == [frequent.index(word) if word in frequent else -1 for word in words]


def test_the_label_may_be_asked_for_again(tmp_path: Path) -> None:
    result = read(raw_table(tmp_path / "t.parquet", 4), auxiliary=("gender", "name"))
    assert result.auxiliary["gender"].tolist() == result.labels.tolist()


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["male", "Woman", "man", "F"]),
        pa.array(["male", "female", "male", "female"]).dictionary_encode(),
        pa.array([0, 1, 0, 1], pa.uint8()),
        pa.array([0.0, 1.0, 0.0, 1.0]),
        pa.array([False, True, False, True]),
        pa.array(["0", "1", "0", "1"], pa.large_string()),
    ],
)
def test_labels_may_be_numbers_or_words(values: pa.Array, tmp_path: Path) -> None:
    assert read(raw_table(tmp_path / "t.parquet", 4, gender=values)).labels.tolist() == [0, 1, 0, 1]


def test_another_column_may_hold_the_labels(tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 6, race=["b", "a", "c", "a", "b", "c"], label=[1, 0, 1, 0, 1, 0])
    assert read(spec).labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert read(spec, label="label").labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert read(spec, label="race", classes=["a", "b", "c"]).labels.tolist() == [1, 0, 2, 0, 1, 2]
    spec = raw_table(tmp_path / "u.parquet", 6, gender=None, label=[1, 0, 1, 0, 1, 0])
    assert read(spec).labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_rows_without_names_are_numbered(tmp_path: Path) -> None:
    assert read(raw_table(tmp_path / "t.parquet", 3, name=None)).names.tolist() == [
        "row/0000000",
        "row/0000001",
        "row/0000002",
    ]


def test_names_that_occur_twice_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FacesError, match="more than one row named 'b', expected unique names"):
        read(raw_table(tmp_path / "t.parquet", 4, name=["b", "a", "c", "b"]))


def test_a_damaged_encoded_image_is_skipped_not_fatal(tmp_path: Path) -> None:
    cells = [png(i) for i in range(10)]
    cells[0], cells[4] = b"", cells[4][:100]
    result = read(raw_table(tmp_path / "t.parquet", image=cells))
    assert len(result) == 8
    assert result.skipped == (
        ("face000", "empty: 0 bytes"),
        ("face004", "truncated: the file ends before the picture does"),
    )


# ---- Hugging Face


def test_splits_of_a_data_set_are_its_own_and_one_can_be_chosen(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    train = datasets.load_from_disk(str(save_hf(tmp_path / "train", 200)))
    test = datasets.load_from_disk(str(save_hf(tmp_path / "test", 6))).shuffle(seed=0)
    root = tmp_path / "both"
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(root))
    result = read(f"hf:{root}")
    check_contract(result)
    assert set(result.splits) == {"train", "validation", "test"}
    assert set(result.names[result.splits == "test"]) == {f"test/{i:07d}" for i in range(6)}
    alone = read(f"hf:{root}:test")
    np.testing.assert_array_equal(alone.images, result.split("test").images)
    assert alone.splits.tolist() == ["test"] * 6
    np.testing.assert_array_equal(alone.labels, test["gender"])
    with pytest.raises(FacesError, match="no split 'dev', only train, test"):
        read(f"hf:{root}:dev")
    twice = tmp_path / "twice"
    datasets.DatasetDict({"train": train, "training": test}).save_to_disk(str(twice))
    with pytest.raises(FacesError, match="two splits for 'train', of which 'training' is one: choose one with :SPLIT"):
        read(f"hf:{twice}")


def test_class_names_of_a_data_set_are_understood(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    turned = save_hf(tmp_path / "a", 4, [0, 1, 0, 0], datasets.ClassLabel(names=["Female", "Male"]))
    assert read(f"hf:{turned}").labels.tolist() == [1, 0, 1, 1]
    animals = save_hf(tmp_path / "b", 4, [0, 1, 2, -1], datasets.ClassLabel(names=["cat", "dog", "newt"]))
    result = read(f"hf:{animals}")
    assert result.classes == ("cat", "dog", "newt")
    assert result.labels.tolist() == [0, 1, 2]
    assert result.skipped == (("row/0000003", "no gender"),)
    words = save_hf(tmp_path / "c", 4, ["Female", "Male", "Male", "Male"], datasets.Value("string"))
    assert read(f"hf:{words}").labels.tolist() == [1, 0, 0, 0]


def test_without_the_optional_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FacesError, match=r"pip install 'dxray\[hf\]'"):
        read("hf:some/name")


@pytest.mark.parametrize("place", ["/no/such", "./faces", "../faces:train", "~/none", "a/b/c", "a\\b"])
def test_what_looks_like_a_path_is_never_looked_up_on_the_network(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(FacesError, match="is no directory: expected one saved by save_to_disk"):
        read(f"hf:{place}")


@pytest.mark.parametrize(
    ("place", "asked", "split"),
    [
        ("owner/name", ("owner/name", None), None),
        ("owner/name:test", ("owner/name", None), "test"),
        ("owner/name@1.25:train", ("owner/name", "1.25"), "train"),
    ],
)
def test_a_name_is_looked_up_on_the_hub(
    place: str, asked: tuple[str, str | None], split: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    part = datasets.load_from_disk(str(save_hf(tmp_path / "part", 40)))
    calls = []

    def load(*args: Any) -> Any:
        calls.append(args)
        return datasets.DatasetDict({"train": part, "test": part})

    monkeypatch.setattr(datasets, "load_dataset", load)
    result = read(f"hf:{place}")
    assert calls == [asked]
    assert len(result) == (80 if split is None else 40)


def test_a_failed_look_up_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")

    def load(*_: Any) -> Any:
        raise ValueError("Config name is missing.\nPlease pick one among: ['0.25', '1.25']")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(FacesError, match=r"hf:a/b cannot be loaded .*pick one among: .* OWNER/NAME\[@CONFIG\]"):
        read("hf:a/b")


# ---- what is wrong is said in one sentence


def broken(kind: str, tmp_path: Path) -> str:
    """A source that is wrong in the way ``kind`` says."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    table = tmp_path / "t.parquet"
    made = {
        "bad class": lambda: f"folder:{write_folder(tmp_path / 'x', man=1, woman=1, horse=1)}",
        "no images": lambda: f"folder:{write_folder(tmp_path / 'x', man=0, woman=0)}",
        "one class": lambda: f"folder:{write_folder(tmp_path / 'x', man=3)}",
        "an empty class": lambda: f"folder:{write_folder(tmp_path / 'x', man=3, woman=0)}",
        "utkface in a folder": lambda: "folder:" + spec_of("utkface", tmp_path / "empty").partition(":")[2],
        "folder as utkface": lambda: f"utkface:{write_folder(tmp_path / 'x', man=1, woman=1)}",
        "no label": lambda: raw_table(table, gender=None, age=[1] * 10),
        "no image": lambda: raw_table(table, image=None),
        "wrong length": lambda: raw_table(table, 3, image=[bytes(2304), bytes(2303), bytes(2304)]),
        "no square": lambda: raw_table(table, 3, image=[bytes(2303)] * 3),
        "images of words": lambda: raw_table(table, 3, image=[1.5, 2.5, 3.5]),
        "unknown label": lambda: raw_table(table, 3, gender=["male", "female", "other"]),
        "labels of lists": lambda: raw_table(table, 2, gender=[[0], [1]]),
        "one label": lambda: raw_table(table, 3, gender=[1, 1, 1]),
        "no name": lambda: raw_table(table, 3, name=["a", None, "c"]),
        "no rows": lambda: raw_table(table, 0),
        "nothing readable": lambda: raw_table(table, 3, image=[b"\x89PNG", b"\x89PNGx", b"\x89PNG"]),
        "cut off": lambda: cut_off(raw_table(table, 3)),
    }
    return made[kind]() if kind in made else kind.format(tmp=tmp_path)


def cut_off(spec: str) -> str:
    file = Path(spec.partition(":")[2])
    file.write_bytes(file.read_bytes()[:-9])
    return spec


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nonsense", "no reader 'nonsense'.*expected synthetic.*utkface:DIR, folder:DIR, parquet:FILE or hf:NAME"),
        ("hf:", "names no data set: write hf:DIR or hf:OWNER/NAME"),
        ("{tmp}/empty", "write folder:.*empty"),
        ("{tmp}/file", "write parquet:.*file"),
        ("folder:", "names no folder: write folder:PATH"),
        ("folder:{tmp}/none", "folder:.*/none does not exist: expected a folder"),
        ("folder:{tmp}/file", "is a file, expected a folder"),
        ("folder:{tmp}/empty", r"has no sub-folders \(0 images\), expected one per class: make one for each class"),
        ("folder:{tmp}/" + "x" * 300, "File name too long"),
        ("bad class", "sub-folder 'horse', expected male or female: .*--classes horse,man,woman"),
        ("no images", r"has sub-folders \(man, woman\) but no images in them"),
        ("one class", r"no faces of class female \(there are male 3\)"),
        ("an empty class", r"no faces of class female \(there are male 3\)"),
        ("utkface in a folder", r"\(30 images\).*so use utkface:"),
        ("utkface:{tmp}/empty", "holds no images"),
        ("folder as utkface", "2 images, none named age_gender_race_datetime.jpg: .* use folder:"),
        ("parquet:{tmp}/none", "does not exist: expected a file"),
        ("parquet:{tmp}/empty", "is a folder, expected a file"),
        ("parquet:{tmp}/file", "is not a Parquet file"),
        ("cut off", "is not a Parquet file"),
        ("no label", "no column 'gender' or 'label', only name, image, age: name the one of labels with --label"),
        ("no image", "no column 'image', only name, gender"),
        ("wrong length", r"2,303 bytes as the image 'face001', expected 2,304 \(48 x 48 grey pixels\)"),
        ("no square", "2,303 bytes as the image 'face000', expected H x H grey pixels"),
        ("images of words", "images of type double, expected bytes"),
        ("unknown label", "'other' in its column 'gender', expected male, female .*--classes"),
        ("labels of lists", "column 'gender' of type list<.*>, expected whole numbers or words"),
        ("one label", r"no faces of class male \(there are female 3\)"),
        ("no name", "no name in row 1: fill the column 'name'"),
        ("no rows", "has no rows"),
        ("nothing readable", "none of the 3 images .* can be read"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_in_one_sentence(kind: str, sentence: str, tmp_path: Path) -> None:
    spec = broken(kind, tmp_path)
    with pytest.raises(FacesError, match=sentence) as caught:
        read(spec)
    assert "\n" not in str(caught.value)


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


# ---- real faces


@needs_real_faces
def test_the_utkface_table_tells_age_and_race() -> None:
    result = read(f"parquet:{REAL_FACES / 'utkface48.parquet'}", limit=2_000, auxiliary=("age", "race"))
    assert sorted(set(result.auxiliary["race"].tolist())) == [0, 1, 2, 3, 4]
    counts = np.bincount(result.auxiliary["age"])
    assert len(counts) == 10
    assert counts.min() > 50  # of 2,000: many are 26 and 1 year old


@needs_real_faces
def test_the_utkface_table_is_read_whole() -> None:
    result = read(f"parquet:{REAL_FACES / 'utkface48.parquet'}")
    check_contract(result)
    table = pq.read_table(REAL_FACES / "utkface48.parquet", columns=["name", "split", "gender"])
    assert len(result) == table.num_rows == 21371
    own = dict(zip(table["name"].to_pylist(), table["split"].to_pylist(), strict=True))
    held_out = {name for name, split in own.items() if split == "test"}
    assert set(result.names[result.splits == "test"].tolist()) == held_out
    assert len(result.split("validation")) == pytest.approx(1902, abs=100)


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
