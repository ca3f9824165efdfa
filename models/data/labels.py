"""What a label means: the one place that makes a class of a word, a number, a truth value or the name of a file.

- A word means the class of that name, or the only one that is another word for the same gender: ``Man``, ``F``,
  ``gender_male``. ``0`` and ``1`` in UTKFace's file names are the words male and female.
- A number counts, from 0, the names that come with the data (Hugging Face's ClassLabel), else those of the call
  (``--classes``), else the classes that dxray trains a net on, or has trained it on: male and female unless others were
  named. The outputs of a foreign net are no such list: for it a number means a class only in a column called gender or
  sex, where 0 is male and 1 is female.
- In a column named for a class (``Male``, ``is_female``) true and 1 mean that class, false, 0 and -1 the other gender,
  or the other of two classes. Where such a column holds -1, its 0 is unknown.
- Null, NaN and empty words are unknown. So is, to an attack, a word or number that means none of the net's classes;
  a training refuses it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from re import compile as regex
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dxray.models.data.reading import FacesError

CLASSES = ("male", "female")
UTKFACE = "UTKFace's file names (0 male, 1 female)"
FOLDERS = "the names of folders"
HOW = ("auto", "utkface", "folder", "none")  # where an attack takes labels from
FEW = 12  # different numbers that are classes as they are; of more, such as ages, tenths of the faces are
TENTHS = np.arange(1, 10) / 10
_MOST = 1000  # different values that mean no class are counted each

_MEANINGS = dict.fromkeys(("male", "males", "man", "men", "boy", "boys", "m"), "male") | dict.fromkeys(
    ("female", "females", "woman", "women", "girl", "girls", "f", "w"), "female"
)
_LETTERS = {"", *"mfwMFW"}
_TRUTHS = dict.fromkeys(("true", "yes"), 1) | dict.fromkeys(("false", "no"), 0)
_COLUMNS, _GENDERS = ("gender", "label", "sex"), ("gender", "sex")  # looked for; those that count males as 0
_PART = regex(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+")  # of "is_male", "isMale", "Is Male"
_FILLERS = {"is", "gender", "sex"}
_NUMBER = regex(r"-?\d+(\.0*)?")
_NAMELESS = regex(r"(?:class |LABEL_)\d+")
_UTKFACE = regex(r"(\d{1,3})_([01])_([0-4])_\d{8,}(?![\d_])")  # some published names lack the dot after the time


class Meaning(NamedTuple):
    """What the values of a column mean.

    Attributes:
        classes: value -> its class, or None where that is unknown.
        said: how they are understood, for people.
        unread: the values that are there and mean no class.
        numbers: the names that its numbers count; none where it holds no numbers, or they count nothing.
    """

    classes: dict[Any, int | None]
    said: str
    unread: frozenset[Any]
    numbers: tuple[str, ...] = ()


def class_of(text: str, classes: Sequence[str], numbers: Sequence[str] = ()) -> int | None:
    """The class that a word means, or a number written out that counts the names of `numbers`; None: it means none."""
    word = text.strip().casefold()
    names = [name.casefold() for name in classes]
    if word in names:
        return names.index(word)
    if word.isdecimal():
        return class_of(numbers[int(word)], classes) if int(word) < len(numbers) else None
    meaning = _gender(text)
    alike = [i for i, name in enumerate(classes) if meaning and _gender(name) == meaning]
    return alike[0] if len(alike) == 1 else None


def nameless(classes: Sequence[str]) -> bool:
    """Whether these are only numbers: `class 0`, or `LABEL_0` of transformers."""
    return all(_NAMELESS.fullmatch(name) for name in classes)


def label_column(columns: Sequence[str], classes: Sequence[str], asked: str | None = None) -> str | None:
    """The column of labels: the one that is asked for, else gender, label or sex, else the first named for a class."""
    if asked is not None:
        return asked if asked in columns else None
    lower = {name.casefold(): name for name in reversed(columns)}
    usual = next((lower[name] for name in _COLUMNS if name in lower), None)
    return usual or next((name for name in columns if _named_for(name, classes) is not None), None)


def no_column(spec: str, columns: Sequence[str], asked: str | None) -> str:
    """The sentence for a table in which `label_column` finds none."""
    expected = f"column {asked!r}" if asked else f"column of labels ({', '.join(_COLUMNS)}, or one named for a class)"
    return f"{spec} has no {expected}, only {', '.join(columns)}: name the one of labels with --label"


def meaning_of(
    spec: str,
    column: str,
    values: Iterable[Any],
    classes: Sequence[str],
    numbers: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Meaning:
    """What the different values of a column mean as `classes`.

    Args:
        spec: the table, for errors.
        numbers: the names that numbers count, 0 the first; () where there is no such list.
        names: those that come with the data, which go before.

    Raises:
        FacesError: they are neither whole numbers, truth values nor words; or those of a column named for a class are
            none that say whether.
    """
    plain = {value: _plain(spec, column, value, classes, names) for value in values}
    given = {one for one in plain.values() if one is not None}
    named = _named_for(column, classes)
    if named is not None:
        truths = {one: _TRUTHS.get(one.casefold()) if isinstance(one, str) else one for one in given}
        if None not in truths.values():
            return _truth(spec, column, named, plain, truths, classes)
    if not numbers and column.casefold() in _GENDERS:
        numbers = CLASSES
    found = {
        value: class_of(one, classes)
        if isinstance(one, str)
        else class_of(numbers[one], classes)
        if one is not None and 0 <= one < len(numbers)
        else None
        for value, one in plain.items()
    }
    unread = frozenset(value for value, one in plain.items() if one is not None and found[value] is None)
    said = f"column '{column}'"
    if not any(isinstance(one, int) for one in given):
        return Meaning(found, said, unread)
    counted = [f"{number} = {name}" for number, name in enumerate(numbers[:FEW])]
    said += f", {', '.join(counted)}" if counted else ", whose numbers count no names: give them by --classes"
    return Meaning(found, said, unread, tuple(numbers))


class Labeller:
    """Gives the images of an attack their labels, and keeps count of by what.

    Attributes:
        classes, numbers: as `meaning_of` takes them.
        how: where labels come from, one of `HOW`. column: of the tables, where it is not found by its name.
        by: said of labels -> how many came so. unread: said of what means no class -> how many. total: images.
        counted: the names that numbers counted, where labels were numbers.
    """

    def __init__(
        self, classes: Sequence[str], *, numbers: Sequence[str] = (), how: str = "auto", column: str | None = None
    ) -> None:
        self.classes, self.numbers, self.how, self.column = tuple(classes), tuple(numbers), how, column
        self.by: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.total = 0
        self.counted: tuple[str, ...] = ()

    def by_name(self, folder: str, file: str) -> int | None:
        """The label of a file by its own name, else by that of its folder; "0" is more often a batch than a class."""
        self.total += 1
        gender = label_of_utkface(file) if self.how in ("auto", "utkface") else None
        label = None if gender is None else class_of(CLASSES[gender], self.classes)
        if label is not None:
            self.by[UTKFACE] += 1
            return label
        if self.how in ("auto", "folder") and not folder.isdecimal():
            label = class_of(folder, self.classes)
        if label is not None:
            self.by[FOLDERS] += 1
        elif gender is not None:
            self.unread[f"the file name of a {CLASSES[gender]}"] += 1
        return label

    def column_of(self, columns: Sequence[str]) -> str | None:
        """The column of labels of a table with these columns, if labels are taken of tables at all."""
        return label_column(columns, self.classes, self.column) if self.how == "auto" else None

    def by_column(self, meaning: Meaning, value: Any) -> int | None:
        """The label of an image by its value in a column."""
        self.total += 1
        label = meaning.classes.get(value)
        if label is not None:
            self.by[meaning.said] += 1
            self.counted = meaning.numbers
        elif value in meaning.unread and (len(self.unread) < _MOST):
            self.unread[f"{value!r} in {meaning.said}"] += 1
        return label

    def __str__(self) -> str:
        """By what labels were given, in one line."""
        known = self.by.total()
        parts = [said if len(self.by) == 1 else f"{said} for {count:,}" for said, count in self.by.most_common()]
        if known < self.total:
            unread = ", ".join(f"{count:,} have {value}" for value, count in self.unread.most_common(3))
            parts.append(f"unknown for {self.total - known:,} of {self.total:,}" + (f" ({unread})" if unread else ""))
        return f"labels: {'; '.join(parts)}"


def must_be_readable(spec: str, column: str, kind: pa.DataType) -> None:
    """A FacesError unless a column of this type can hold labels: numbers, truth values, words, or nothing at all."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string)
    if not any(is_kind(kind) for is_kind in (*kinds, pa.types.is_large_string, pa.types.is_null)):
        raise FacesError(_not_labels(spec, column, f"is of type {kind}"))


def _plain(spec: str, column: str, value: Any, classes: Sequence[str], names: Sequence[str] | None) -> str | int | None:
    """A value as a word or a whole number; None where it is none."""
    if value is None or value != value or (names is not None and value == -1):  # so Hugging Face writes no label
        return None
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    if isinstance(value, str):
        word = value.strip()
        if not word or not _NUMBER.fullmatch(word) or class_of(word, classes) is not None:
            return word or None
        return int(float(word))
    if not float(value).is_integer():
        raise FacesError(_not_labels(spec, column, f"holds {value}"))
    return int(value)


def _not_labels(spec: str, column: str, what: str) -> str:
    return (
        f"{spec} has a column {column!r} that {what}, expected whole numbers, true and false, or words: name the one "
        f"of labels with --label"
    )


def _named_for(column: str, classes: Sequence[str]) -> int | None:
    """The class that a column is named for, as in `Male`, `is_female` or `is_cat`; `w` is a width, not a woman."""
    word = _without_fillers(column)
    named = class_of(column, classes) if column not in _LETTERS else None
    return named if named is not None or word in _LETTERS else class_of(word, classes)


def _truth(
    spec: str,
    column: str,
    named: int,
    plain: dict[Any, str | int | None],
    truths: dict[Any, Any],
    classes: Sequence[str],
) -> Meaning:
    """What true and false mean in a column that is named for a class."""
    values = set(truths.values())
    if not values <= {-1, 0, 1}:
        odd = next(iter(values - {-1, 0, 1}))
        raise FacesError(
            f"{spec} has a column {column!r} that holds {odd}, expected true and false, 1 and 0, or 1 and -1 in a "
            f"column named for a class: name the one of labels with --label"
        )
    gender = _gender(classes[named])
    other = class_of(next(word for word in CLASSES if word != gender), classes) if gender else None
    if other is None and len(classes) == 2:
        other = 1 - named
    false = -1 if -1 in values else 0
    meant = {1: named, false: other}
    found = {value: None if one is None else meant.get(truths[one]) for value, one in plain.items()}
    words = "true", "false"
    if not any(isinstance(value, bool) for value in plain):
        words = "1", str(false)
    no = "unknown" if other is None else classes[other]
    return Meaning(found, f"column '{column}', {words[0]} = {classes[named]}, {words[1]} = {no}", frozenset())


def _gender(text: str) -> str | None:
    """Male or female, if the text is a word for one of them."""
    return _MEANINGS.get(_without_fillers(text))


def _without_fillers(text: str) -> str:
    """`is_male`, `isMale` and `gender: male` as male."""
    parts = [part.casefold() for part in _PART.findall(text)]
    return "_".join(part for part in parts if part not in _FILLERS)


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
    indices = [class_of(name, classes) for name in CLASSES]
    if len(classes) != 2 or None in indices:
        raise FacesError(
            f"{spec} has the classes male and female, not {', '.join(classes)}: leave --classes out, or take a net of "
            f"these classes"
        )
    return np.array(indices, np.int64)[genders], classes


def checked_classes(classes: Sequence[str] | str | None) -> tuple[str, ...] | None:
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
