"""What is wrong with a source of faces is said in one sentence."""

from pathlib import Path

import pytest

from dxray.models.data.faces import FacesError, read
from tests.models.data.sources import raw_table, spec_of, write_folder


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
        (
            "no label",
            "no column of labels .gender, label, sex, .*, only name, image, age: .* --label",
        ),
        ("no image", "no column 'image', only name, gender"),
        ("no square", "2,303 bytes as each image, expected H x H grey pixels"),
        ("images of words", "images of type double, expected binary"),
        ("unknown label", "'other' in its column 'gender', expected male, female .*--classes"),
        (
            "labels of lists",
            "column 'gender' that is of type list<.*>, expected whole numbers",
        ),
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
