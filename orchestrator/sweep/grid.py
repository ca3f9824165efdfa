"""The meta-parameter grid: lists of values to trials, each the keyword arguments of one training.

Nets are imported when trials are made, not before: the command's `--help` is written from the tables below.
"""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from numbers import Integral, Real
from typing import Any, NamedTuple

from dxray.orchestrator.errors import UserError

Grid = Mapping[str, Any]  # parameter -> its values, or the only one


class Parameter(NamedTuple):
    """What a grid may say: `kind` of its values, what they mean, and what a trial takes that does not say it."""

    kind: type
    doc: str
    default: str
    least: int = 0


# What a trial may say, in the order of the table's columns; the course's names.
NET_PARAMETERS = {
    "blocks": Parameter(int, "blocks, each of which halves the image", "4", least=1),
    "convs": Parameter(int, "3x3 convolutions in a block", "densenet 3, convnet 2", least=1),
    "filters": Parameter(int, "filters of each convolution", "8 16", least=1),
    "stem_blocks": Parameter(int, "resnet: residuals at full size, before the blocks", "0"),
    "out_channels": Parameter(int, "channels after a dense block", "32", least=1),
    "dropout": Parameter(float, "share of values dropped after each convolution", "0.1"),
    "batch_norm": Parameter(bool, "batch norm after each convolution", "on"),
    "tta_flip": Parameter(bool, "resnet: answers for the image and its mirror image, averaged", "off"),
    "tta_shift": Parameter(bool, "resnet: and for it moved by a pixel each way, averaged", "off"),
}
FIT_PARAMETERS = {
    "epochs": Parameter(int, "passes over the training images", "8", least=1),
    "batch_size": Parameter(int, "images in a step", "64", least=1),
    "lr": Parameter(float, "highest learning rate", "0.002"),
    "weight_decay": Parameter(float, "of AdamW", "0.01"),
    "optimizer": Parameter(str, "adamw or sgd", "adamw"),
    "schedule": Parameter(str, "of the learning rate: onecycle or cosine", "onecycle"),
    "label_smoothing": Parameter(float, "share of each label given to the other classes", "0.05"),
    "augment": Parameter(bool, "training images mirrored, turned, zoomed, moved, lit at random", "on"),
    "augment_strength": Parameter(float, "how far augmented images are turned, zoomed and moved", "1"),
    "random_erasing": Parameter(float, "share of training images that lose a part", "0"),
    "ema": Parameter(float, "share that an average of the weights keeps at a step", "0"),
}
PARAMETERS = {
    "net": Parameter(str, "densenet, convnet or resnet", "the first two"),
    **NET_PARAMETERS,
    **FIT_PARAMETERS,
    "train_size": Parameter(int, "training images used", "all", least=1),
    "refit": Parameter(bool, "the validation images are learnt, too, so that nothing is chosen by them", "off"),
    "auxiliary": Parameter(str, "what else the data tell and is learnt, too, such as age+race", "-"),
    "defense": Parameter(str, "none, jumprelu:kappa=0.1, ...: behind which it is attacked, too", "-"),
    "seed": Parameter(int, "of all that is drawn", "0"),
}

DEFAULTS: dict[str, list[Any]] = {
    "net": ["densenet", "convnet"],
    "filters": [8, 16],
    "batch_norm": [True],
    "dropout": [0.1],
    "epochs": [8],
    "batch_size": [64],
    "seed": [0],
}


def expand(grid: Grid | Sequence[Grid]) -> list[dict[str, Any]]:
    """Every combination of a grid's values, in order, over `DEFAULTS` for what it leaves out; of several, the union.

    A parameter that a net does not have (`out_channels` of a ConvNet) is left out of its trials; trials that are then
    alike are one.

    Raises:
        UserError: an unknown parameter, net or defence, a parameter without a value, or a value of the wrong kind.
    """
    found: list[dict[str, Any]] = []
    for part in [grid] if isinstance(grid, Mapping) else grid:
        for trial in _product(part):
            if trial not in found:
                found.append(trial)
    return found


def _product(grid: Grid) -> Iterator[dict[str, Any]]:
    from dxray.defenses import parse, text_of
    from dxray.models.nets import MODELS

    whole = DEFAULTS | {name: checked(name, values) for name, values in grid.items()}
    for net in whole["net"]:
        if net not in MODELS:
            raise UserError(f"no net is called '{net}'; known are: {', '.join(MODELS)}")
    try:
        whole |= {"defense": [text_of(parse(text)) for text in whole["defense"]]} if "defense" in whole else {}
    except ValueError as wrong:
        raise UserError(f"the grid's 'defense': {wrong}") from None
    for values in product(*whole.values()):
        trial = dict(zip(whole, values, strict=True))
        has = inspect.signature(MODELS[trial["net"]]).parameters
        yield {
            name: trial[name] for name in PARAMETERS if name in trial and (name not in NET_PARAMETERS or name in has)
        }


def checked(name: str, values: Any) -> list[Any]:
    """The values of a parameter as a list of its kind; one value alone is a list of one.

    Raises:
        UserError: no parameter is called so, there is no value, or one is of another kind or out of range.
    """
    if name not in PARAMETERS:
        raise UserError(f"the grid has no parameter '{name}'; known are: {', '.join(PARAMETERS)}")
    several = isinstance(values, Iterable) and not isinstance(values, (str, Mapping))
    listed = [] if values is None else list(values) if several else [values]
    if not listed:
        raise UserError(f"the grid names no value for '{name}'; give at least one, or leave it out")
    return [_value(name, value) for value in listed]


def _value(name: str, value: Any) -> Any:
    kind, _, _, least = PARAMETERS[name]
    is_switch = isinstance(value, bool)
    if kind is int and isinstance(value, Integral) and not is_switch and int(value) >= least:
        return int(value)
    # A bool is a number to Python, and 4 and 4.0 are alike to `==` but not to a table: each value has one form.
    if kind is float and isinstance(value, Real) and not is_switch and least <= float(value) < math.inf:
        return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    expected = {int: f"a whole number from {least} up", float: f"a number from {least} up", bool: "on or off"}
    raise UserError(f"the grid's '{name}' must be {expected.get(kind, 'a word')}, and {value!r} came")


def auxiliary_of(trial: Mapping[str, Any]) -> list[str]:
    """What a trial's net learns beside the class, by name."""
    names = [name.strip() for name in trial.get("auxiliary", "none").split("+")]
    return [name for name in names if name not in ("", "none")]


def varied(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters in which the trials differ: what a table needs as columns and a person as a name."""
    names = dict.fromkeys(name for trial in trials for name in trial)
    return [name for name in names if len({repr(trial.get(name)) for trial in trials}) > 1]
