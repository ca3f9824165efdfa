"""Words and numbers that mean a class."""

import pytest

from dxray.models.data.class_names import class_index, label_of_utkface


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
