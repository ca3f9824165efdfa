"""What the labels of an attack mean: whichever way the net has its classes, and said aloud."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import dxray as package
from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.data.labels import Labeller
from dxray.models.victims.checkpoint import load, save
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import read_rows
from tests.models.victims.foreign_files import scripted, write_side

Said = tuple[int, str, str]
COUNT = 60
QUICK = ["--attack", "fgsm", "--eps", "1/255", "--workers", "local", "--no-png"]


class Turned(nn.Module):
    """A net with its classes the other way round."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).flip(1)


@pytest.fixture(scope="module")
def turned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained net as one of dxray's that has learnt with `--classes female,male`."""
    net, card = load(trained)
    with torch.no_grad():
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.copy_(last.weight.flip(0))
        last.bias.copy_(last.bias.flip(0))
    card.classes = ("female", "male")
    folder = tmp_path_factory.mktemp("turned")
    save(net, card, folder)
    return folder


@pytest.fixture(scope="module")
def foreign(trained: Path, faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same net as TorchScript, with the classes Female and Male."""
    path = tmp_path_factory.mktemp("foreign") / "net.pt"
    images = torch.tensor(faces.images[:2]).float() / 255
    scripted(Turned(load(trained)[0]).eval().requires_grad_(False), path, images)
    return write_side(path, classes=["Female", "Male"])


@pytest.fixture
def utkface(faces: Faces, tmp_path: Path) -> Path:
    folder = tmp_path / "named"
    folder.mkdir()
    for i in range(COUNT):
        name = f"{20 + i}_{faces.labels[i]}_0_20170116174525{i:03d}.png"
        (folder / name).write_bytes(encode_png(faces.images[i]))
    return folder


def table(faces: Faces, path: Path, **columns: Any) -> Path:
    images = [encode_png(image) for image in faces.images[:COUNT]]
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def genders(faces: Faces) -> list[int]:
    return [int(label) for label in faces.labels[:COUNT]]


def wrong(out: Path) -> int:
    return sum(row["status"] == "already_wrong" for row in read_rows(out))


@pytest.mark.parametrize("which", ["trained", "turned", "foreign"])
def test_the_genders_of_utkface_are_words_to_any_order_of_classes(
    which: str, utkface: Path, tmp_path: Path, dxray: Callable[..., Said], request: pytest.FixtureRequest
) -> None:
    net = request.getfixturevalue(which)
    code, said, problem = dxray("attack", utkface, "--model", net, *QUICK, "--out", tmp_path / "out")
    assert code == 0, problem
    assert "labels: UTKFace's file names (0 male, 1 female)" in said
    assert "labels are swapped" not in said
    assert wrong(tmp_path / "out") <= 6
    record = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert record["lists"][0]["labels"] == "labels: UTKFace's file names (0 male, 1 female)"


def labels(path: Path, classes: tuple[str, ...], labeller: Labeller | None = None, **how: Any) -> list[int | None]:
    return [item.label for item in list_inputs([str(path)], classes=classes, labeller=labeller, **how)]


def test_a_net_without_genders_has_no_labels_by_utkface(utkface: Path) -> None:
    labeller = Labeller(("cat", "dog"))
    assert set(labels(utkface, (), labeller)) == {None}
    assert "labels: unknown for 60 of 60" in str(labeller)
    assert "have the file name of a male" in str(labeller)


def test_of_several_heads_in_one_output_the_genders_are_found(utkface: Path, faces: Faces) -> None:
    classes = ("White", "Black", "Asian", "Male", "Female", "0-9", "10-19")
    assert labels(utkface, classes) == [3 + gender for gender in genders(faces)]


@pytest.mark.parametrize(
    ("column", "make"),
    [
        ("gender", lambda truth: pa.array([float(g) for g in truth])),
        ("sex", lambda truth: pa.array(truth, pa.int8())),
        ("Male", lambda truth: pa.array([g == 0 for g in truth])),
        ("is_female", lambda truth: pa.array([2 * g - 1 for g in truth])),
        ("Gender", lambda truth: pa.array([str(g) for g in truth])),
        ("label", lambda truth: pa.array(["MW"[g] for g in truth]).dictionary_encode()),
    ],
)
def test_a_column_means_the_same_to_every_net(
    column: str, make: Callable[[list[int]], pa.Array], faces: Faces, tmp_path: Path
) -> None:
    truth = genders(faces)
    path = f"parquet:{table(faces, tmp_path / 't.parquet', **{column: make(truth)})}"
    assert labels(path, ("male", "female")) == truth  # type: ignore[arg-type]
    assert labels(path, ("Woman", "Man")) == [1 - label for label in truth]  # type: ignore[arg-type]


def test_null_is_unknown_and_said(faces: Faces, tmp_path: Path) -> None:
    values = [None if i % 5 == 0 else float(g) for i, g in enumerate(genders(faces))]
    path = table(faces, tmp_path / "t.parquet", gender=pa.array(values))
    labeller = Labeller(("male", "female"), numbers=("male", "female"))
    found = labels(f"parquet:{path}", (), labeller)  # type: ignore[arg-type]
    assert [one is None for one in found] == [i % 5 == 0 for i in range(COUNT)]
    assert str(labeller) == "labels: column 'gender', 0 = male, 1 = female; unknown for 12 of 60"


def test_a_number_of_a_foreign_net_means_nothing_until_it_is_named(
    foreign: Path, faces: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    words = ["attack", f"parquet:{table(faces, tmp_path / 't.parquet', label=genders(faces))}", "--model", foreign]
    _, said, _ = dxray(*words, *QUICK, "--out", tmp_path / "unknown")
    assert "labels: unknown for 60 of 60" in " ".join(said.split())
    assert "give them by --classes" in said
    _, said, _ = dxray(*words, *QUICK, "--out", tmp_path / "known", "--classes", "male,female")
    assert "labels: column 'label', 0 = male, 1 = female" in said
    assert wrong(tmp_path / "known") <= 6
    code, _, problem = dxray(*words, "--out", tmp_path / "none", "--classes", "cat,dog")
    assert code == 1
    assert "--classes cat,dog: none is a class of the net, of Female, Male" in problem


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"label": "no"}, "has no column 'no', only image, age, who, gender"),
        ({"label": "who"}, "column 'who' that is of type list<.*>, expected whole numbers, true and false, or words"),
        ({"label": "age"}, "has 30 in column 'age'.*: none of them means a class of the net"),
        ({}, "column 'gender' that holds 0.5, expected whole numbers"),
        ({"label": "age", "labels": "folder"}, "labels are not taken of these; leave it out"),
    ],
)
def test_what_no_verb_can_read_is_refused_aloud(
    how: dict[str, Any], sentence: str, faces: Faces, tmp_path: Path
) -> None:
    columns = {"age": [30] * COUNT, "who": [["a"]] * COUNT, "gender": [0.5] * COUNT}
    path = table(faces, tmp_path / "t.parquet", **columns)
    with pytest.raises(UserError, match=sentence):
        labels(f"parquet:{path}", ("male", "female"), **how)  # type: ignore[arg-type]


def test_a_column_can_be_asked_for(faces: Faces, tmp_path: Path, trained: Path) -> None:
    truth = genders(faces)
    file = table(faces, tmp_path / "t.parquet", gender=[0] * COUNT, second=["man" if g == 0 else "f" for g in truth])
    net = package.load(trained)
    _, told = package.read(f"parquet:{file}", net, label="second")
    assert told.tolist() == truth
    _, told = package.read(f"parquet:{file}", net, label="second", labels="auto", classes=["female", "male"])
    assert told.tolist() == truth


def test_swapped_labels_are_said_at_the_start_and_at_the_end_with_what_mends_them(
    trained: Path, faces: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    file = table(faces, tmp_path / "t.parquet", gender=[1 - gender for gender in genders(faces)])
    words = ["attack", f"parquet:{file}", "--model", trained, *QUICK]
    _, said, _ = dxray(*words, "--out", tmp_path / "out")
    before, after = said.split("attack: 60 of 60 images")
    for part in (before, after):
        assert "the labels are swapped" in " ".join(part.split())
        assert "--classes female,male" in part
    findings = json.loads((tmp_path / "out" / "attack.json").read_text())["findings"]
    assert [finding["name"] for finding in findings] == ["labels_swapped"]
    _, said, _ = dxray(*words, "--out", tmp_path / "mended", "--classes", "female,male")
    assert "labels are swapped" not in said
    assert wrong(tmp_path / "mended") <= 6


def test_folders_one_class_after_the_other_tell_swapped_labels_from_the_start(
    trained: Path, faces: Faces, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    for i in range(200):
        place = tmp_path / "faces" / ("female" if faces.labels[i] == 0 else "male")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03}.png").write_bytes(encode_png(faces.images[i]))
    _, said, _ = dxray("attack", tmp_path / "faces", "--model", trained, *QUICK, "--out", tmp_path / "out")
    assert "labels_swapped" in said.split("attack: 200 of 200")[0]


class ContrastOfCentred(nn.Module):
    """Right on images whose pixels are given in [-1, 1]: those of much contrast are of class 1."""

    def forward(self, images: Tensor) -> Tensor:
        contrast = images.square().flatten(1).mean(1, keepdim=True)
        return torch.cat([torch.full_like(contrast, 0.2), contrast], dim=1)


def test_a_net_that_wants_other_pixels_is_told_from_labelled_images(tmp_path: Path, dxray: Callable[..., Said]) -> None:
    rng = np.random.default_rng(0)
    for i in range(80):
        place = tmp_path / "faces" / ("female" if i % 2 else "male")
        place.mkdir(parents=True, exist_ok=True)
        pixels = 128 + (120 if i % 2 else 10) * rng.choice([-1, 1], (1, 16, 16))
        (place / f"{i:02}.png").write_bytes(encode_png(pixels.astype(np.uint8)))
    net = write_side(scripted(ContrastOfCentred().eval(), tmp_path / "net.pt"), size=16)
    words = ["attack", tmp_path / "faces", "--model", net, *QUICK]
    _, said, _ = dxray(*words, "--out", tmp_path / "out")
    flat = " ".join(said.split())
    assert (
        "input_form: of 64 labelled images the net has 50.0% right as it gets them, and 100.0% with pixels in" in flat
    )
    assert 'Write "mean": [0.5], "std": [0.5] into its side file' in flat
    write_side(net, size=16, mean=[0.5], std=[0.5])
    _, said, _ = dxray(*words, "--out", tmp_path / "mended")
    assert "input_form" not in said
    assert wrong(tmp_path / "mended") == 0


def test_a_target_is_a_word_as_elsewhere(
    trained: Path, utkface: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    words = ["attack", utkface, "--model", trained, *QUICK]
    code, _, problem = dxray(*words, "--target", "Woman", "--out", tmp_path / "out")
    assert code == 0, problem
    assert {row["target"] for row in read_rows(tmp_path / "out")} == {1}
    code, _, problem = dxray(*words, "--target", "1", "--out", tmp_path / "number")
    assert code == 1
    assert "knows no class '1'; its classes are: male, female" in problem
