"""Pictures that are there twice: the same, mirrored, or nearly the same (encoded anew, brighter, scaled)."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 16  # of the thumbnails that images are compared by
ALIKE, SAME = 0.98, 0.995  # correlation of thumbnails worth a second look, and of pictures that are one


class Copies(NamedTuple):
    """For each test image the number of a training image that it is a copy of, -1 for none; `same`: to the last bit."""

    of: np.ndarray
    same: np.ndarray


def copies(train: np.ndarray, test: np.ndarray) -> Copies:
    """Training images among the test images, both uint8 `(N, C, H, W)`."""
    known = {_hash(image): at for at, image in enumerate(train)}
    of = np.array([known.get(_hash(image), -1) for image in test], np.int64)
    same = of >= 0
    nearly = _nearly(train, test)
    return Copies(np.where(same, of, nearly), same)


def same_pictures(images: Mapping[str, np.ndarray]) -> Iterator[list[tuple[str, int]]]:
    """Groups of images that are the same to the last bit, each by its split and number."""
    groups: dict[bytes, list[tuple[str, int]]] = {}
    for name, split in images.items():
        for at, image in enumerate(split):
            groups.setdefault(_hash(image), []).append((name, at))
    yield from (group for group in groups.values() if len(group) > 1)


def _hash(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _nearly(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The training image that a test image, or its mirror image, correlates with as no two photographs do, or -1.

    Thumbnails choose the pairs, whole images decide: small images of simple things are all alike.
    """
    found = np.full(len(test), -1)
    known = thumbnails(train)
    for view in (test, test[..., ::-1].copy()):
        best = [(part @ known.T).max(1) for part in thumbnails(view).split(256)]
        value, at = (torch.cat(parts).numpy() for parts in zip(*best, strict=True))
        close = np.flatnonzero((value >= ALIKE) & (found < 0))
        if len(close):
            pairs = _standardised(view[close]) * _standardised(train[at[close]])
            found[close] = np.where(pairs.sum(1).numpy() >= SAME, at[close], -1)
    return found


def thumbnails(images: np.ndarray) -> torch.Tensor:
    """uint8 `(N, C, H, W)` to `(N, C * 16 * 16)`: rows of mean 0 and length 1, whose products are correlations."""
    parts = [
        F.adaptive_avg_pool2d(torch.tensor(part).float(), SIDE)
        for part in np.array_split(images, max(1, len(images) // 1024))
    ]
    return _unit(torch.cat(parts).flatten(1))


def _standardised(images: np.ndarray) -> torch.Tensor:
    return _unit(torch.tensor(images).float().flatten(1))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows - rows.mean(1, keepdim=True), dim=1)
