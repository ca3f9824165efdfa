"""The synthetic faces: the same bytes however they are drawn, and neither too easy nor without signal."""

import hashlib

import numpy as np
import pytest

from dxray.models.data import synthetic
from dxray.models.data.synthetic import FEMALE, MALE, TRAITS, bayes_error, draw


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    return draw(range(4500), seed=5)


def test_images_are_8_bit_grey_with_a_label_each(faces: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = faces
    assert images.dtype == np.uint8
    assert images.shape == (4500, 1, 48, 48)
    assert labels.dtype == np.int64
    assert labels.shape == (4500,)
    assert set(labels) == {MALE, FEMALE}


def test_same_seed_and_index_same_bytes_whatever_is_drawn_with_it() -> None:
    images, labels = draw(range(60), seed=3)
    order = np.random.default_rng(0).permutation(60)
    shuffled, shuffled_labels = draw(order, seed=3)
    np.testing.assert_array_equal(shuffled, images[order])
    np.testing.assert_array_equal(shuffled_labels, labels[order])
    # 1, 2, ... images at once end at every remainder of a vector register.
    start = 0
    for count in range(1, 11):
        some, some_labels = draw(range(start, start + count), seed=3)
        np.testing.assert_array_equal(some, images[start : start + count])
        np.testing.assert_array_equal(some_labels, labels[start : start + count])
        start += count


@pytest.mark.parametrize(("name", "value"), [("BLOCK", 7), ("CHUNK_PIXELS", 1), ("CHUNK_PIXELS", 10**6)])
def test_bytes_do_not_depend_on_how_the_work_is_cut(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = draw(range(40))
    monkeypatch.setattr(synthetic, name, value)
    images, _ = draw(range(40))
    np.testing.assert_array_equal(images, expected)


def test_bytes_are_those_of_every_machine_and_version() -> None:
    # A recorded result names its faces by (seed, index): whoever changes the drawing changes what old results mean.
    images, labels = draw(range(64), seed=1)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes())
    assert digest.hexdigest() == "41630d87125f85afdccc42dc927316ff0471f70ec5598d07516fba0e7f9866fa"


def test_seeds_and_far_indices_draw_other_faces() -> None:
    near, _ = draw(range(50), seed=0)
    other, _ = draw(range(50), seed=1)
    negative, _ = draw(range(50), seed=-1)
    far, _ = draw(np.arange(50) + 2**62, seed=0)
    everything = np.concatenate([near, other, negative, far]).reshape(200, -1)
    assert len(np.unique(everything, axis=0)) == 200


def test_no_two_images_are_alike(faces: tuple[np.ndarray, np.ndarray]) -> None:
    images = faces[0][:2000].reshape(2000, -1)
    assert len({row.tobytes() for row in images}) == 2000


def test_every_image_shows_something(faces: tuple[np.ndarray, np.ndarray]) -> None:
    images = faces[0].reshape(len(faces[0]), -1).astype(np.float32)
    assert images.std(axis=1).min() > 8
    assert (np.ptp(images, axis=1)).min() > 50


def test_labels_are_balanced_and_in_no_order(faces: tuple[np.ndarray, np.ndarray]) -> None:
    labels = faces[1]
    np.testing.assert_array_equal(labels.reshape(-1, 2).sum(axis=1), 1)
    assert 0.45 < labels[::2].mean() < 0.55


@pytest.mark.parametrize("size", [32, 64, 96])
def test_other_sizes_show_the_same_faces(size: int) -> None:
    count = 60
    images, labels = draw(range(count), size=size)
    assert images.shape == (count, 1, size, size)
    reference, reference_labels = draw(range(count), size=48)
    np.testing.assert_array_equal(labels, reference_labels)

    def on_a_grid_of_8(pictures: np.ndarray) -> np.ndarray:
        # Coarse means: grain and blur are of the sensor's pixels, so they differ from size to size.
        side = pictures.shape[-1]
        edges = (np.arange(9) * side) // 8
        rows = np.add.reduceat(pictures[:, 0].astype(np.float64), edges[:-1], axis=1)
        cells = np.add.reduceat(rows, edges[:-1], axis=2)
        return cells / np.diff(edges)[:, None] / np.diff(edges)

    for picture, same in zip(on_a_grid_of_8(images), on_a_grid_of_8(reference), strict=True):
        assert np.corrcoef(picture.ravel(), same.ravel())[0, 1] > 0.8


def test_no_indices_no_images() -> None:
    images, labels = draw(range(0))
    assert images.shape == (0, 1, 48, 48)
    assert labels.shape == (0,)


@pytest.mark.parametrize(
    ("indices", "size", "complaint"),
    [
        (np.array([0.5]), 48, "whole numbers"),
        (np.zeros((2, 2), np.int64), 48, "shape"),
        (np.array([3, -1]), 48, "negative"),
        (np.array([0]), 8, "at least 16"),
    ],
)
def test_what_cannot_be_drawn_is_refused(indices: np.ndarray, size: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        draw(indices, size=size)


def test_bayes_error_is_that_of_reading_every_trait() -> None:
    numbers = np.arange(40_000, dtype=np.uint64)
    labels = synthetic.labels_of(numbers, 0)
    traits = synthetic._traits(synthetic._key(0, 1, numbers), labels)
    evidence = sum(
        trait.shift * (traits[name].ravel().astype(np.float64) - trait.mean) / trait.sd
        for name, trait in TRAITS.items()
    )
    error = np.mean((evidence > 0) != (labels == FEMALE))
    assert error == pytest.approx(bayes_error(), abs=0.004)
    assert 0.01 < error < 0.05


def test_each_class_has_long_and_short_hair() -> None:
    numbers = np.arange(4000, dtype=np.uint64)
    labels = synthetic.labels_of(numbers, 0)
    length = synthetic._traits(synthetic._key(0, 1, numbers), labels)["hair_length"].ravel()
    for label in (MALE, FEMALE):
        assert np.mean(length[labels == label] > 0.6) > 0.1  # below the jaw
        assert np.mean(length[labels == label] < 0.2) > 0.1  # at the ears


def test_a_linear_classifier_learns_something_but_not_much(faces: tuple[np.ndarray, np.ndarray]) -> None:
    pixels = faces[0].reshape(4500, -1).astype(np.float32) / 255
    pixels -= pixels[:3000].mean(axis=0)
    sign = 2.0 * faces[1] - 1.0
    train = pixels[:3000]
    # Ridge regression; this penalty is about the best of those tried.
    weights = np.linalg.solve(train.T @ train + 100.0 * np.eye(train.shape[1], dtype=np.float32), train.T @ sign[:3000])
    accuracy = np.mean((pixels[3000:] @ weights > 0) == (sign[3000:] > 0))
    assert 0.58 < accuracy < 0.78


def test_the_jaw_tells_the_classes_apart_on_average(faces: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = faces[0][:, 0].astype(np.float64), faces[1]
    cheeks = images[:, 26:31, 15:33].mean(axis=(1, 2))
    jaw_corners = (images[:, 34:38, 10:14] + images[:, 34:38, 34:38]).mean(axis=(1, 2)) / 2
    # Where the jaw is wide, its corners show skin, as the cheeks do, and not what is behind them.
    likeness = -np.abs(jaw_corners - cheeks)
    gap = likeness[labels == MALE].mean() - likeness[labels == FEMALE].mean()
    assert gap > 0.2 * likeness.std()
