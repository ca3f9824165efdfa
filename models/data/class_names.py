"""Which class a word, a number or the name of a file means."""

from collections.abc import Sequence
from re import compile as regex

import numpy as np

from dxray.models.data.reading import FacesError

CLASSES = ("male", "female")
FEW = 12  # different numbers that are classes as they are; of more, such as ages, tenths of the faces are
TENTHS = np.arange(1, 10) / 10

_MEANINGS = dict.fromkeys(("male", "man", "men", "m"), "male") | dict.fromkeys(
    ("female", "woman", "women", "f", "w"), "female"
)
_UTKFACE = regex(r"(\d{1,3})_([01])_([0-4])_\d{8,}(?![\d_])")  # some published names lack the dot after the time


def class_index(text: str, classes: tuple[str, ...]) -> int | None:
    """The label that ``text`` means: a class by name, by number, or by another word for the same gender."""
    word = text.strip().casefold()
    names = [name.casefold() for name in classes]
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    meaning, meanings = _MEANINGS.get(word), [_MEANINGS.get(name) for name in names]
    return meanings.index(meaning) if meaning and meaning in meanings else None


def label_of_utkface(filename: str) -> int | None:
    """0 male or 1 female by a UTKFace file name; None unless age, gender, race and time are all there."""
    match = _UTKFACE.match(filename)
    return int(match[2]) if match else None


def told_by_utkface(filename: str) -> dict[str, int]:
    """Age in years and race, 0 to 4, by a UTKFace file name; nothing where it is none."""
    match = _UTKFACE.match(filename)
    return {"age": int(match[1]), "race": int(match[3])} if match else {}


def groups(values: np.ndarray) -> np.ndarray:
    """Numbers (N,), NaN where there is none, as the classes to be learnt: int64 (N,) from 0 up, -1 where there is none.

    Few different numbers are a class each; many are ten classes with as many faces each, as far as that goes.
    """
    known = ~np.isnan(values)
    different = np.unique(values[known])
    edges = different[1:] if len(different) <= FEW else np.unique(np.quantile(values[known], TENTHS))
    return np.where(known, np.searchsorted(edges, values, side="right"), -1).astype(np.int64)


def gender_labels(
    spec: str, genders: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """0 male and 1 female as labels into ``classes``, whose order the caller may have turned round."""
    if classes is None:
        return genders, CLASSES
    indices = [class_index(name, classes) for name in CLASSES]
    if len(classes) != 2 or None in indices:
        raise FacesError(f"{spec} has the classes male and female, not {', '.join(classes)}: leave --classes out")
    return np.array(indices, np.int64)[genders], classes


def checked_classes(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of classes as the caller gave them, a sequence or one string with commas, or a FacesError."""
    if classes is None:
        return None
    named = tuple(name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes))
    if len(named) < 2 or not all(named) or len({name.casefold() for name in named}) < len(named):
        raise FacesError(f"classes {','.join(named)!r}: expected at least 2 different names, as in --classes man,woman")
    return named


def need_all_classes(spec: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """A FacesError if a class has no face: a net trained on the others would never say it."""
    counts = np.bincount(labels, minlength=len(classes))
    if (counts == 0).any():
        missing = ", ".join(name for name, count in zip(classes, counts, strict=True) if count == 0)
        there = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True) if count)
        raise FacesError(
            f"{spec} has no faces of class {missing} (there are {there or 'none at all'}): "
            f"expected some of each of {', '.join(classes)}, so add them or name other --classes"
        )
