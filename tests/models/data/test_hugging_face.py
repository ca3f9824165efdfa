"""Hugging Face data sets: saved ones, and those looked up by their name."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dxray.models.data.faces import FacesError, read
from tests.models.data.sources import (
    check_contract,
    save_hf,
)


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
