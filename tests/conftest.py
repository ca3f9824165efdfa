"""What many tests share: one local Ray, a small trained net, a folder of faces, and the real faces where they are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.training.train import evaluate, fit
from dxray.models.victims.checkpoint import ModelCard, save
from dxray.orchestrator.console import Console
from dxray.orchestrator.ray.session import connected

ROOT = Path(__file__).resolve().parents[1]

# Commands under test and Ray's workers find dxray as the tests themselves do: in this checkout, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
# Ray's workers give way to whatever else runs; here that is other tests, and they would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

# Beside the checkout where it exists: real faces never enter the repository.
SHARED_FACES = ROOT.parent / "shared" / "faces"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The nets here are small: several threads would mostly wait for each other, more so on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_children() -> None:
    """A shell starts its background jobs with SIGINT ignored, and every process below them inherits that.

    A handler is not inherited: with one here, a command under test starts as from a terminal.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all the tests that need it; commands under test find it and leave it running."""
    with connected():
        yield


@pytest.fixture(scope="session")
def faces() -> Faces:
    """400 pictures in place of faces, whose class is whether the upper or the lower half is brighter.

    A net learns them in a second, where the synthetic faces would take minutes.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    shade = np.where(np.arange(48) < 24, 20, -20)[:, None] * np.where(labels, -1, 1)[:, None, None, None]
    images = (128 + shade + rng.normal(0, 30, (400, 1, 48, 48))).clip(0, 255).round().astype(np.uint8)
    splits = np.array(["train"] * 280 + ["validation"] * 60 + ["test"] * 60)
    return Faces(images, labels, np.array([f"face{i:03}" for i in range(400)]), splits, ("male", "female"), "halves")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, faces: Faces) -> Path:
    """The folder of a small ConvNet that has learnt those pictures, and so is worth fooling."""
    folder = tmp_path_factory.mktemp("trained")
    card = ModelCard("convnet", {"filters": 8, "batch_norm": True}, faces.classes, trained={"epochs": 3})
    torch.manual_seed(0)
    net = card.build()
    train = faces.split("train")
    fit(net, train.images, train.labels, epochs=3, batch_size=16, lr=5e-3, seed=0)
    test = faces.split("test")
    assert evaluate(net, test.images, test.labels)["accuracy"] > 0.9, "the fixture's net has not learnt"
    save(net, card, folder)
    return folder


@pytest.fixture
def face_folder(tmp_path: Path, faces: Faces) -> Path:
    """Ten faces as PNG files, in a folder for each class."""
    for image, label, name in zip(faces.images[:10], faces.labels, faces.names, strict=False):
        place = tmp_path / "faces" / faces.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.png").write_bytes(encode_png(image))
    return tmp_path / "faces"


@pytest.fixture(scope="session")
def face_table(tmp_path_factory: pytest.TempPathFactory, faces: Faces) -> Path:
    """All of the pictures as a Parquet table, with their splits."""
    columns = {
        "name": faces.names.tolist(),
        "split": faces.splits.tolist(),
        "gender": [faces.classes[label] for label in faces.labels],
        "image": [encode_png(image) for image in faces.images],
    }
    file = tmp_path_factory.mktemp("table") / "faces.parquet"
    pq.write_table(pa.table(columns), file)
    return file


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_faces() -> Path:
    if not SHARED_FACES.is_dir():
        pytest.skip("no real faces beside the checkout (../shared/faces)")
    return SHARED_FACES
