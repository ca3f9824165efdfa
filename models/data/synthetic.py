"""Synthetic faces: small grey drawings of two classes, any number of them, made by arithmetic alone.

They stand in for photographs where none may be shipped: tests, demos and benchmarks of the pipeline. The two classes
are a statistical convention, nothing more: each is a cloud of drawing parameters (`TRAITS`), the clouds overlap, and
no claim about people follows from them.

What makes them hard for a linear classifier is that the class lies in relations (jaw to head, brow to eye, lip to
mouth, hair outline to background) while light, pose, tone and exposure vary far more than the traits do. What keeps
any classifier from 100 % is that the clouds overlap; `bayes_error` says by how much.

An image depends on `(seed, index)` alone. Random numbers come from a counter hash, and pixels are computed only with
operations that IEEE 754 rounds exactly (no `exp`, no `sin`, no matrix product, no sum whose order may change), so the
bytes do not depend on the batch, the chunk, or the vector width of the machine.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dxray.models.data.synthetic_drawing import Floats, Traits, paint

Hashes = npt.NDArray[np.uint64]

MALE, FEMALE = 0, 1


class Trait(NamedTuple):
    """A drawing parameter: `mean + sd * (z + shift)` for class 1, `mean + sd * (z - shift)` for class 0, z normal."""

    mean: float
    sd: float
    shift: float = 0.0


# Lengths are in units of the head's half-height, measured from the centre of the head, downwards and outwards.
TRAITS = {
    # Pose of the head in the frame.
    "scale": Trait(0.395, 0.022),
    "shift_x": Trait(0.0, 0.025),
    "shift_y": Trait(0.0, 0.022),
    "roll": Trait(0.0, 0.055),
    "yaw": Trait(0.0, 0.15),
    "pitch": Trait(0.0, 0.07),
    # Head and neck.
    "head_width": Trait(0.77, 0.040),
    "jaw_width": Trait(0.71, 0.085, -0.65),
    "jaw_square": Trait(0.50, 0.25, -0.58),
    "neck_width": Trait(0.52, 0.080, -0.50),
    "ear_size": Trait(0.15, 0.025),
    # Hair.
    "hair_length": Trait(0.35, 0.55, 0.62),
    "hair_volume": Trait(0.14, 0.060, 0.38),
    "hairline": Trait(-0.60, 0.10, 0.30),
    "hairline_curve": Trait(0.55, 0.25),
    "hair_parting": Trait(0.0, 0.25),
    "hair_cover": Trait(1.5, 0.80, 0.30),
    "hair_curl": Trait(0.0, 1.0),
    # Brows and eyes.
    "brow_height": Trait(0.26, 0.035, 0.40),
    "brow_thickness": Trait(0.078, 0.020, -0.62),
    "brow_arch": Trait(0.055, 0.040, 0.50),
    "brow_tilt": Trait(0.0, 0.015),
    "eye_height": Trait(0.03, 0.02),
    "eye_gap": Trait(0.335, 0.020),
    "eye_width": Trait(0.168, 0.016, 0.20),
    "eye_opening": Trait(0.070, 0.018, 0.25),
    "lash": Trait(0.50, 0.22, 0.45),
    "socket_depth": Trait(0.20, 0.07, -0.30),
    # Nose and mouth.
    "nose_length": Trait(0.36, 0.03, -0.20),
    "nose_width": Trait(0.155, 0.026, -0.15),
    "nose_relief": Trait(0.45, 0.12),
    "mouth_height": Trait(0.575, 0.025),
    "mouth_width": Trait(0.275, 0.032),
    "lip_fullness": Trait(0.090, 0.023, 0.55),
    "lip_contrast": Trait(0.32, 0.14, 0.50),
    "smile": Trait(0.03, 0.04),
    "mouth_opening": Trait(-0.025, 0.028),
    # Skin.
    "beard": Trait(-0.05, 0.45, -0.75),
    "wrinkles": Trait(0.10, 0.07),
    # Light and camera.
    "light_x": Trait(0.0, 0.30),
    "light_y": Trait(-0.15, 0.20),
    "exposure": Trait(0.0, 0.07),
    "contrast": Trait(1.00, 0.15),
    "tone_curve": Trait(0.0, 0.25),
    "vignette": Trait(0.10, 0.10),
}

# Drawn evenly between two bounds, the same for both classes.
EVEN_TRAITS = {
    "skin_tone": (0.34, 0.86),
    "hair_tone": (0.05, 0.62),
    "clothes_tone": (0.05, 0.90),
    "backdrop_tone": (0.05, 0.95),
    "backdrop_slope_x": (-0.25, 0.25),
    "backdrop_slope_y": (-0.25, 0.25),
    "backdrop_edge": (-0.35, 0.35),
    "backdrop_edge_x": (-0.5, 0.5),
    "backdrop_edge_slant": (-1.0, 1.0),
    "strand_phase": (0.0, 1.0),
    "glasses": (0.0, 1.0),
    "blur": (0.0, 0.30),
    "noise": (0.005, 0.028),
}

# Images whose traits are drawn together, and pixels painted together: few enough for arrays of them to stay in a core's
# cache, and under 128 KiB, above which the usual C library asks the kernel for fresh pages for every array.
BLOCK, CHUNK_PIXELS = 512, 28_000


def bayes_error() -> float:
    """The error, in [0, 1], of one who reads every trait exactly: what overlap of the classes alone costs."""
    separation = math.sqrt(sum(trait.shift**2 for trait in TRAITS.values()))
    return 0.5 * math.erfc(separation / math.sqrt(2.0))


def draw(
    indices: npt.NDArray[np.integer] | range, *, seed: int = 0, size: int = 48
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw the faces numbered `indices` of the endless series `seed`.

    Returns images uint8 `(N, 1, size, size)` in [0, 255] and labels int64 `(N,)`, 0 male and 1 female. Of the indices
    `2k` and `2k + 1` one is of each class. The same `(seed, index, size)` gives the same bytes whatever else is drawn.
    """
    numbers = np.asarray(indices)
    if numbers.size == 0:
        numbers = numbers.astype(np.int64)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"indices must be whole numbers of shape (N,), got {numbers.dtype} of shape {numbers.shape}")
    if numbers.size and numbers.min() < 0:
        raise ValueError(f"indices must not be negative, got {numbers.min()}")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels to hold a face, got {size}")
    labels = labels_of(numbers, seed)
    numbers = numbers.astype(np.uint64)
    images = np.empty((len(numbers), 1, size, size), np.uint8)
    chunk = max(1, CHUNK_PIXELS // size**2)
    for start in range(0, len(numbers), BLOCK):
        part = slice(start, start + BLOCK)
        keys = _key(seed, 1, numbers[part])
        traits = _traits(keys, labels[part])
        block = images[part, 0]
        for first in range(0, len(block), chunk):
            some = slice(first, first + chunk)
            block[some] = paint({name: value[some] for name, value in traits.items()}, _white_noise(keys[some], size))
    return images, labels


def labels_of(indices: npt.NDArray[np.integer] | range, seed: int) -> npt.NDArray[np.int64]:
    """Labels `(N,)` of faces that need not be drawn: a coin for each pair of neighbours decides which is which."""
    numbers = np.asarray(indices).astype(np.uint64)
    coin = _key(seed, 0, numbers >> np.uint64(1)) >> np.uint64(63)
    return ((numbers & np.uint64(1)) ^ coin).astype(np.int64)


def _mix(counter: Hashes) -> Hashes:
    """The output function of splitmix64: a bijection of 64-bit words that scatters neighbours."""
    word = counter * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _key(seed: int, stream: int, numbers: Hashes) -> Hashes:
    """A 64-bit key for each number, of one stream of one seed."""
    origin = _mix(np.array([seed % 2**64], np.uint64))
    return _mix(_mix(origin + np.uint64(stream)) ^ _mix(numbers + np.uint64(1)))


def _traits(keys: Hashes, labels: npt.NDArray[np.int64]) -> Traits:
    """The value of every trait for every image, each `(N, 1, 1)`."""
    words = _mix(keys + np.arange(1, len(TRAITS) + len(EVEN_TRAITS) + 1, dtype=np.uint64)[:, None])
    # The sum of four even 16-bit numbers: nearly normal, exact, never beyond 3.5 deviations, so no face falls apart.
    quarters = sum((words >> np.uint64(bits)) & np.uint64(0xFFFF) for bits in (0, 16, 32, 48))
    normals = (np.asarray(quarters, np.float64) - 2 * 65535) / (65536 / math.sqrt(3.0))
    evens = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    side = np.where(labels == FEMALE, 1.0, -1.0)
    values = {}
    for row, (name, trait) in enumerate(TRAITS.items()):
        values[name] = trait.mean + trait.sd * (normals[row] + trait.shift * side)
    for row, (name, (low, high)) in enumerate(EVEN_TRAITS.items(), start=len(TRAITS)):
        values[name] = low + (high - low) * evens[row]
    return {name: value.astype(np.float32)[:, None, None] for name, value in values.items()}


def _white_noise(keys: Hashes, size: int) -> Floats:
    """Noise `(N, size, size)` of mean 0 and deviation 1: bits counted in a 32-bit hash of (image, pixel)."""
    pixels = np.arange(1, size * size + 1, dtype=np.uint32).reshape(1, size, size) * np.uint32(0x9E3779B9)
    word = pixels ^ _mix(keys).astype(np.uint32)[:, None, None]
    word ^= word >> np.uint32(16)
    word *= np.uint32(0x7FEB352D)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x846CA68B)
    word ^= word >> np.uint32(16)
    noise = np.bitwise_count(word).astype(np.float32)
    noise -= np.float32(16.0)
    noise *= np.float32(1 / math.sqrt(8.0))
    return noise
