"""Words and numbers that mean a class."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dxray.models.data.faces import FacesError, read
from dxray.models.data.labels import CLASSES, class_of, label_column, label_of_utkface, meaning_of
from tests.models.data.sources import raw_table, spec_of


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


@pytest.mark.parametrize(
    ("text", "classes", "index"),
    [
        ("Woman", ("male", "female"), 1),
        ("female", ("woman", "man"), 0),
        (" M ", ("male", "female"), 0),
        ("1", ("cat", "dog"), None),  # a number counts a list of names, and here is none
        ("gender: Male", ("White", "Black", "Male", "Female"), 2),
        ("isFemale", ("White", "Female"), 1),
        ("male", ("man", "boy", "woman"), None),  # either of two
        ("1", ("1", "0"), 0),  # a name before a number
        ("2", ("cat", "dog"), None),
        ("horse", ("male", "female"), None),
        ("man", ("cat", "dog"), None),
        ("", ("male", "female"), None),
    ],
)
def test_a_word_means_a_class(text: str, classes: tuple[str, ...], index: int | None) -> None:
    assert class_of(text, classes) == index


def test_a_number_counts_the_names_of_a_list() -> None:
    assert class_of("1", ("male", "female"), ("Woman", "Man")) == 0
    assert class_of("2", ("male", "female"), ("Woman", "Man")) is None
    assert class_of("0", ("1", "0"), ("Woman", "Man")) == 1


def found(column: str, values: list[Any], classes: tuple[str, ...] = CLASSES, **how: Any) -> list[int | None]:
    meaning = meaning_of("here", column, values, classes, **how)
    return [meaning.classes[value] for value in values]


@pytest.mark.parametrize(
    ("column", "values", "classes", "labels"),
    [
        ("Male", [True, False, None], ("male", "female"), [0, 1, None]),
        ("Male", [True, False], ("female", "male"), [1, 0]),
        ("is_female", [1, 0], ("male", "female"), [1, 0]),
        ("isMan", [1.0, 0.0, None], ("woman", "man"), [1, 0, None]),
        ("Male", [1, -1], ("male", "female"), [0, 1]),
        ("Male", [1, 0, -1], ("male", "female"), [0, None, 1]),
        ("Woman", ["True", "false"], ("male", "female"), [1, 0]),
        ("male", ["yes", "no", ""], ("male", "female"), [0, 1, None]),
        ("is_cat", [1, 0], ("cat", "dog"), [0, 1]),
        ("cat", [1, 0], ("cat", "dog", "newt"), [0, None]),
        ("Male", [1, 0], ("White", "Black", "Male", "Female"), [2, 3]),
        ("Male", ["Male", "Female"], ("male", "female"), [0, 1]),
    ],
)
def test_a_column_named_for_a_class_says_whether(
    column: str, values: list[Any], classes: tuple[str, ...], labels: list[int | None]
) -> None:
    assert found(column, values, classes) == labels


def test_a_number_without_a_list_is_unknown_but_in_a_column_of_genders() -> None:
    foreign = ("Female", "Male")
    assert found("label", [0, 1], foreign) == [None, None]
    assert found("gender", [0, 1], foreign) == [1, 0]
    assert found("Sex", ["0", "1.0"], foreign) == [1, 0]
    assert found("label", [0, 1], foreign, numbers=("man", "woman")) == [1, 0]
    assert found("gender", [0, 1], foreign, numbers=foreign) == [0, 1]
    assert found("label", [0, 1, -1], foreign, names=["Male", "Female"]) == [1, 0, None]
    assert found("Male", [0, 1], foreign, names=["False", "True"]) == [0, 1]
    assert found("label", [0, 1, 2], foreign, numbers=("0", "male")) == [None, 1, None]
    assert meaning_of("here", "label", [0, 1], foreign).unread == {0, 1}


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("gender", [0.5], "holds 0.5, expected whole numbers"),
        ("gender", [float("inf")], "holds inf"),
        ("Male", [1, 2], "'Male' that holds 2, expected true and false"),
    ],
)
def test_what_is_no_label_is_refused(column: str, values: list[Any], sentence: str) -> None:
    with pytest.raises(FacesError, match=sentence):
        meaning_of("here", column, values, CLASSES)


@pytest.mark.parametrize(
    ("columns", "classes", "column"),
    [
        (["image", "w", "Male", "SEX"], CLASSES, "SEX"),
        (["image", "w", "Young", "is_female"], CLASSES, "is_female"),
        (["image", "w", "Male"], ("cat", "dog"), None),
        (["label", "gender"], CLASSES, "gender"),
    ],
)
def test_the_column_of_labels_is_found(columns: list[str], classes: tuple[str, ...], column: str | None) -> None:
    assert label_column(columns, classes) == column


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([True, False, None, True]), "column 'Male', true = male, false = female"),
        (pa.array([1.0, 0.0, None, 1.0]), "column 'Male', 1 = male, 0 = female"),
        (pa.array([1, -1, 0, 1], pa.int8()), "column 'Male', 1 = male, -1 = female"),
        (pa.array(["true", "false", None, "true"]).dictionary_encode(), "column 'Male', 1 = male, 0 = female"),
    ],
)
def test_a_training_reads_such_a_column_and_says_so(values: pa.Array, said: str, tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 4, gender=None, Male=values)
    faces = read(spec, unlabelled=True)
    assert faces.labels.tolist() == [0, 1, -1, 0]
    assert faces.labelled_by == f"labels: {said}"
    turned = read(spec, unlabelled=True, classes=["woman", "man"])
    assert turned.labels.tolist() == [1, 0, -1, 1]
    assert said.split(",")[0] in read(spec).summary()


def test_the_genders_of_utkface_are_words_to_every_order_of_classes(tmp_path: Path) -> None:
    spec = spec_of("utkface", tmp_path)
    usual, turned = read(spec), read(spec, classes=["Woman", "Man"])
    assert (usual.labels == 1 - turned.labels).all()
    assert usual.labelled_by == "labels: UTKFace's file names (0 male, 1 female)"
