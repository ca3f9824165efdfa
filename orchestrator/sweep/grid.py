"""The meta-parameter grid: lists of values to trials, each the keyword arguments of one training.

Nets are imported when trials are made, not before: the command's `--help` is written from the tables below.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    "blocks": Parameter(int, "blocks, each of which halves the image", "convnet 4, densenet 4, resnet 3", least=1),
    "convs": Parameter(int, "3x3 convolutions in a block", "convnet 2, densenet 3, resnet 4", least=1),
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
    "weight_decay": Parameter(float, "decay of the weights, but not of biases and batch norm", "0.01"),
    "optimizer": Parameter(str, "adamw or sgd", "adamw"),
    "schedule": Parameter(str, "of the learning rate: onecycle or cosine", "onecycle"),
    "label_smoothing": Parameter(float, "share of each label given to the other classes", "0.05"),
    "augment": Parameter(bool, "training images mirrored, turned, zoomed, moved, lit at random", "on"),
    "augment_strength": Parameter(float, "how far augmented images are turned, zoomed and moved", "1"),
    "random_erasing": Parameter(float, "share of training images that lose a part", "0"),
    "ema": Parameter(float, "share that an average of the weights keeps at a step", "0"),
}
PARAMETERS = {
    "net": Parameter(str, "densenet, convnet or resnet", "densenet convnet"),
    **NET_PARAMETERS,
    **FIT_PARAMETERS,
    "train_size": Parameter(int, "training images used", "all", least=1),
    "refit": Parameter(bool, "the validation images are learnt, too, so that nothing is chosen by them", "off"),
    "auxiliary": Parameter(str, "what is learnt beside the class, where the data tell it, such as age+race", "none"),
    "defense": Parameter(str, "such as jumprelu:kappa=0.1; a grid that names it has its nets attacked, too", "none"),
    "seed": Parameter(int, "of all that is drawn", "0"),
}

# What a grid takes that does not say it; what stands in neither is left to the net and to `fit`.
DEFAULTS: dict[str, list[Any]] = {
    "net": ["densenet", "convnet"],
    "filters": [8, 16],
    "batch_norm": [True],
    "dropout": [0.1],
    "epochs": [8],
    "batch_size": [64],
    "seed": [0],
}
OF_TRIAL: dict[str, Any] = {"train_size": None, "refit": False, "auxiliary": "none", "defense": "none", "seed": 0}
UNLIMITED = {"train_size": "all"}  # of what None says something else than that the net has no such parameter


def expand(grid: Grid | Sequence[Grid]) -> list[dict[str, Any]]:
    """Every combination of a grid's values, in order, over `DEFAULTS` for what it leaves out; of several, the union.

    Each trial is complete, see `complete`; trials that are then alike are one.

    Raises:
        UserError: an unknown parameter, net or defence, a parameter without a value, or a value of the wrong kind.
    """
    trials = (trial for part in _parts(grid) for trial in _product(part))
    return list({tuple(trial.items()): trial for trial in trials}.values())


def _product(grid: Grid) -> Iterator[dict[str, Any]]:
    from dxray.defenses import parse, text_of
    from dxray.models.nets import MODELS

    whole = DEFAULTS | {name: checked(name, values) for name, values in grid.items()}
    for net in whole["net"]:
        if net not in MODELS:
            raise UserError(f"no net is called '{net}'; known are: {', '.join(MODELS)}")
    # What says the same is written the same, or one training would be two trials.
    forms: dict[str, Callable[[str], str]] = {
        "auxiliary": lambda text: "+".join(_auxiliary(text)) or "none",
        "defense": lambda text: text_of(parse(text)),
    }
    try:
        whole |= {name: [form(text) for text in whole[name]] for name, form in forms.items() if name in whole}
    except ValueError as wrong:
        raise UserError(f"the grid's 'defense': {wrong}") from None
    usual = {net: _usual(net) for net in whole["net"]}
    for values in product(*whole.values()):
        trial = dict(zip(whole, values, strict=True))
        yield _completed(trial, usual[trial["net"]])


def _parts(grid: Grid | Sequence[Grid]) -> Sequence[Grid]:
    return [grid] if isinstance(grid, Mapping) else grid


def says(grid: Grid | Sequence[Grid], parameter: str) -> bool:
    """Whether a grid, or one of several, names that parameter."""
    return any(parameter in part for part in _parts(grid))


def complete(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The trial with every parameter in effect: what it leaves out is a default of its net, of `fit`, or of `OF_TRIAL`.

    What its net does not have (`out_channels` of a ConvNet) is left out.

    Raises:
        ValueError: no net is called so.
    """
    return _completed(trial, _usual(trial["net"]))


def _usual(net: str) -> dict[str, Any]:
    from dxray.models.nets import parameters_of

    return {"net": net} | parameters_of(net) | training_defaults() | OF_TRIAL


def _completed(trial: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {name: trial.get(name, usual[name]) for name in PARAMETERS if name in usual}


def training_defaults() -> dict[str, Any]:
    """What `fit` takes for each of `FIT_PARAMETERS` that it is not given."""
    from dxray.models.training.train import fit

    known = inspect.signature(fit).parameters
    return {name: known[name].default for name in FIT_PARAMETERS}


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


def of_net(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a trial that its net is built with."""
    return {name: trial[name] for name in NET_PARAMETERS if name in trial}


def of_fit(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a trial that `fit` takes."""
    return {name: trial[name] for name in FIT_PARAMETERS}


def auxiliary_of(trial: Mapping[str, Any]) -> list[str]:
    """What a trial's net learns beside the class, by name."""
    return _auxiliary(trial["auxiliary"])


def _auxiliary(text: str) -> list[str]:
    return sorted({name.strip() for name in text.split("+")} - {"", "none"})


def varied(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters that tell trials apart: what a table needs as columns and a person as a name.

    These are `net`, where there are several, and those in which the trials of a net differ; not what follows from the
    net, such as its own number of `convs`.

    Args:
        trials: complete, or rows of the table.
    """
    return [name for name in PARAMETERS if any(len(set(values)) > 1 for values in _values(trials, name))]


def _values(trials: Sequence[Mapping[str, Any]], name: str) -> Iterable[list[Any]]:
    """The values of a parameter, for each net by itself; of `net`, those of all trials."""
    of_net: dict[str, list[Any]] = {}
    for trial in trials:
        of_net.setdefault("" if name == "net" else trial["net"], []).append(trial.get(name))
    return of_net.values()
