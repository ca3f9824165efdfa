"""An attack whose run or images were moved goes on where the same images are, and nowhere else."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.orchestrator.attack import image_tables, moved, sharding
from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
from dxray.orchestrator.attack.decoding import digests
from dxray.orchestrator.attack.inputs import Input
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import parts, read_json, read_rows

Said = tuple[int, str, str]
Pictures = list[tuple[str, str, bytes]]  # name, class, content
WRONG = "does not hold the images of .*: "


@pytest.fixture
def pictures(faces: Faces) -> Pictures:
    pairs = zip(faces.names[:12].tolist(), faces.labels.tolist(), faces.images, strict=False)
    return [(name, faces.classes[label], encode_png(image)) for name, label, image in pairs]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "FIRST", 3)
    monkeypatch.setattr(sharding, "MOST", 3)


def folder(root: Path, pictures: Pictures) -> list[str]:
    for name, label, content in pictures:
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{name}.png").write_bytes(content)
    return [str(root)]


def two_folders(root: Path, pictures: Pictures) -> list[str]:
    return [str(Path(folder(root, pictures)[0]) / label) for label in ("male", "female")]


def single_files(root: Path, pictures: Pictures) -> list[str]:
    return sorted(map(str, Path(folder(root, pictures)[0]).rglob("*.png")))


def pattern(root: Path, pictures: Pictures) -> list[str]:
    return [f"{folder(root, pictures)[0]}/*/*.png"]


def list_of_paths(root: Path, pictures: Pictures) -> list[str]:
    folder(root / "all", pictures)
    lines = [f"all/{label}/{name}.png" for name, label, _ in pictures]
    (root / "faces.txt").write_text("\n".join(lines))
    return [f"list:{root / 'faces.txt'}"]


def table(root: Path, pictures: Pictures) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    names, labels, contents = map(list, zip(*pictures, strict=True))
    pq.write_table(pa.table({"name": names, "gender": labels, "image": contents}), root / "faces.parquet")
    return [f"parquet:{root / 'faces.parquet'}"]


def tables(root: Path, pictures: Pictures) -> list[str]:
    half = len(pictures) // 2
    table(root / "a", pictures[:half])
    table(root / "b", pictures[half:])
    return [f"parquet:{root}"]


def table_of_paths(root: Path, pictures: Pictures) -> list[str]:
    folder(root / "all", pictures)
    columns = {
        "name": [name for name, _, _ in pictures],
        "gender": [label for _, label, _ in pictures],
        "image": [f"all/{label}/{name}.png" for name, label, _ in pictures],
    }
    pq.write_table(pa.table(columns), root / "faces.parquet")
    return [f"parquet:{root / 'faces.parquet'}"]


def data_set(root: Path, pictures: Pictures) -> list[str]:
    import datasets

    features = datasets.Features({"gender": datasets.ClassLabel(names=["male", "female"]), "image": datasets.Image()})
    rows = {"gender": [label for _, label, _ in pictures], "image": [{"bytes": one} for _, _, one in pictures]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "faces")
    return [f"hf:{root / 'faces'}"]


Place = Callable[[Path, Pictures], list[str]]
KINDS: list[Place] = [
    folder,
    two_folders,
    single_files,
    pattern,
    list_of_paths,
    table,
    tables,
    table_of_paths,
    data_set,
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def begin(trained: Path, tmp_path: Path, pictures: Pictures, console: Console) -> Callable[[Place], Path]:
    """Begins a run, and stops it; gives a copy of its folder. What it attacked is gone."""

    def begun(kind: Place) -> Path:
        out = tmp_path / "whole"
        config = AttackConfig(kind(tmp_path / "old", pictures), str(trained), attack="fgsm", options={"eps": 0.1})
        attack(config, out, console, workers="local")
        assert len(parts(out)) == 4
        shutil.copytree(out, tmp_path / "copy")
        for part in parts(tmp_path / "copy")[2:]:
            part.unlink()
        record = read_json(tmp_path / "copy" / "attack.json")
        shutil.rmtree(tmp_path / "old")
        image_tables._loaded.cache_clear()  # a later process goes on
        assert record["inputs"] == 12
        return tmp_path / "copy"

    return begun


@kinds
def test_a_copied_run_goes_on_where_its_images_are_now(
    kind: Place, begin: Callable[[Place], Path], pictures: Pictures, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    copy = begin(kind)
    before = read_json(copy / "attack.json")
    code, _, errors = dxray("attack", "--resume", copy)
    assert code == 1
    assert f"if the images are elsewhere now, say where: dxray attack --resume '{copy}' PATHS" in errors
    now = kind(tmp_path / "new", pictures)
    code, _, errors = dxray("attack", *now, "--resume", copy, "--workers", "local")
    assert code == 0, errors
    assert list(read_rows(copy)) == list(read_rows(tmp_path / "whole"))
    record = read_json(copy / "attack.json")
    assert record["config"] == before["config"] | {"paths": now}
    assert dxray("attack", "--resume", copy)[0] == 0  # it knows the place from now on


@kinds
def test_another_image_name_or_label_at_the_new_place_is_refused(
    kind: Place, begin: Callable[[Place], Path], pictures: Pictures, tmp_path: Path, console: Console
) -> None:
    copy = begin(kind)
    lists = [file.read_bytes() for file in sorted((copy / "inputs").iterdir())]
    done = {row["name"].rpartition("/")[2].removesuffix(".png") for row in read_rows(copy, ["name"])}
    at = next((i for i, (name, _, _) in enumerate(pictures) if name in done), 0)
    name, label, content = pictures[at]

    def changed(*one: object) -> list[str]:
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        return kind(tmp_path / "new", [*pictures[:at], one, *pictures[at + 1 :]])  # type: ignore[list-item]

    other = encode_png(np.zeros((1, 48, 48), np.uint8))
    with pytest.raises(UserError, match=WRONG + ".*is another image"):
        resume(copy, console, paths=changed(name, label, other), workers="local")
    if kind is not data_set:  # whose rows are called by their numbers
        with pytest.raises(UserError, match=WRONG):
            resume(copy, console, paths=changed("face999", label, content), workers="local")
    with pytest.raises(UserError, match=WRONG):
        resume(copy, console, paths=changed(name, "male" if label == "female" else "female", content), workers="local")
    with pytest.raises(UserError, match=WRONG):
        resume(copy, console, paths=kind(tmp_path / "few", pictures[:6]), workers="local")
    assert [file.read_bytes() for file in sorted((copy / "inputs").iterdir())] == lists
    resume(copy, console, paths=kind(tmp_path / "right", pictures), workers="local")
    assert list(read_rows(copy)) == list(read_rows(tmp_path / "whole"))


def test_what_is_new_at_the_new_place_is_attacked_by_an_update(
    begin: Callable[[Place], Path], faces: Faces, pictures: Pictures, tmp_path: Path, console: Console
) -> None:
    copy = begin(folder)
    more = [*pictures, ("face0000", "male", encode_png(faces.images[20])), ("zz", "male", encode_png(faces.images[21]))]
    now = folder(tmp_path / "new", more)
    with pytest.raises(UserError, match=WRONG + "'male/face0000.png' is new"):
        resume(copy, console, paths=now, workers="local")
    assert resume(copy, console, paths=now, update=True, workers="local")["inputs"] == 14
    rows = list(read_rows(copy))
    assert rows[:12] == list(read_rows(tmp_path / "whole"))
    assert [row["name"] for row in rows[12:]] == ["male/face0000.png", "male/zz.png"]
    later = folder(tmp_path / "later", more)  # there are two lists now
    shutil.rmtree(tmp_path / "new")
    assert resume(copy, console, paths=later, workers="local")["inputs"] == 14


def test_the_same_command_with_another_place_goes_on_where_the_images_are_the_same(
    begin: Callable[[Place], Path], trained: Path, pictures: Pictures, tmp_path: Path, console: Console
) -> None:
    copy = begin(folder)
    config = AttackConfig(folder(tmp_path / "new", pictures), str(trained), attack="fgsm", options={"eps": 0.1})
    attack(config, copy, console, workers="local")
    assert list(read_rows(copy)) == list(read_rows(tmp_path / "whole"))
    config.paths = folder(tmp_path / "others", pictures[1:])
    with pytest.raises(UserError, match=WRONG + ".* is gone; .* choose another --out for these"):
        attack(config, copy, console, workers="local")


def test_of_a_large_run_some_images_all_over_it_are_compared(
    begin: Callable[[Place], Path],
    pictures: Pictures,
    tmp_path: Path,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []

    def seen(inputs: Sequence[Input]) -> list[str | None]:
        compared.extend(item.name for item in inputs)
        return digests(inputs)

    monkeypatch.setattr(moved, "digests", seen)
    monkeypatch.setattr(moved, "COMPARED", 2)
    copy = begin(folder)
    done = [row["name"] for row in read_rows(copy, ["name"])]
    resume(copy, console, paths=folder(tmp_path / "new", pictures), workers="local")
    assert compared == done[::3]
