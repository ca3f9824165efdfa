"""What the options of several verbs share: their panels in `--help`, their types, and which cannot go together."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import CoercionError, Group, Parameter, Token
from cyclopts.validators import mutually_exclusive

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs import places

if TYPE_CHECKING:
    from dxray.orchestrator.runs.buckets import Place as _Place

    PathText = str
else:
    # That in a bucket is of a module that loads Arrow. Any: cyclopts has pydantic check the type, where that is loaded.
    _Place = Path | Any
    PathText = str | Path  # always a str, as the first of them; a shell completes files where a path may be

# The panels of `--help`, from top to bottom.
DATA = Group("Data", sort_key=1)
NET = Group("Net", sort_key=2)
GRID = Group("The grid", help="one or more values each; every combination is a net", sort_key=3)
SEARCH = Group("Search", sort_key=4)
ATTACK = Group("Attack", sort_key=5)
TRAINING = Group("Training", sort_key=6)
RULES = Group("When to stop: the first rule that fires", sort_key=7)
SCHEDULE = Group("Schedule", sort_key=8)
RESOURCES = Group("Resources", sort_key=9)
OUTPUT = Group("Output", sort_key=10)
RUN = Group("Run", sort_key=11)

ONCE = Parameter(allow_repeating=False)  # of a list: given again it would grow, where a single value is replaced
WAYS = Group(validator=mutually_exclusive)  # without a name it is no panel: of these options one can be given


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Cyclopts alone takes 8.7 for 9."""
    if not tokens[0].value.isdecimal():
        raise _refused(tokens[0], "a whole number from 0 up")
    return int(tokens[0].value)


def _budget(_: Any, tokens: Sequence[Token]) -> float:
    above, slash, below = tokens[0].value.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise _refused(tokens[0], "a number, such as 0.0157 or 4/255") from None


def _refused(token: Token, expected: str) -> CoercionError:
    return CoercionError(msg=f"expected {expected}, and '{token.value}' came", token=token)


def _folder(_: Any, tokens: Sequence[Token]) -> Path:
    return places.folder(tokens[0].value)


def _place(_: Any, tokens: Sequence[Token]) -> Any:
    return places.place(tokens[0].value)


Whole = Annotated[int, Parameter(converter=_whole)]
Budget = Annotated[float, Parameter(converter=_budget)]
Folder = Annotated[Path, Parameter(converter=_folder, metavar="DIR")]
Place = Annotated[_Place, Parameter(converter=_place, metavar="DIR")]

Source = Annotated[str, Parameter(group=DATA, metavar="SOURCE")]
Label = Annotated[
    str | None, Parameter(group=DATA, metavar="COLUMN", help="the column that holds the labels (parquet:, hf:)")
]
Classes = Annotated[
    str | None,
    Parameter(
        group=DATA,
        metavar="NAME,NAME",
        show_default="the net's, if dxray trained it",
        help="what 0, 1, ... mean where labels are numbers",
    ),
]
Net = Annotated[
    PathText,
    Parameter(
        group=NET,
        metavar="NET",
        help="a checkpoint, a sweep's folder (its best net), a torch.export or TorchScript file, a Hugging Face folder",
    ),
]
Where = Annotated[
    str | None,
    Parameter(metavar="EXPR", help="only these images: \"status == 'fooled' and (l2 > 0.5 or 'smith' in name)\""),
]
Seed = Annotated[Whole, Parameter(help="of all that is drawn")]
Address = Annotated[
    str | None, Parameter(help="of a running Ray cluster, or 'auto'; without it a local Ray is started")
]
Json = Annotated[bool, Parameter(help="one JSON object on standard output, text on standard error")]


def given(options: Any) -> dict[str, Any]:
    """The fields of a dataclass that have a value; None is what an option has that was not given."""
    return {name: value for name, value in vars(options).items() if value is not None}


def class_names(classes: str | None) -> list[str] | None:
    """The names that `--classes` holds, with commas between them; None where it was not given."""
    return classes.split(",") if classes else None


def must_leave_out(options: Mapping[str, Any], reason: str, *, but: Collection[str]) -> None:
    """UserError, `reason` and their names, where others than `but` are among the options that were given.

    Args:
        options: as cyclopts hands them to a verb's validator: those that were given, alone or in groups of such.
    """
    names = [name for name in _names(options) if name not in but]
    if names:
        told = ["PATHS" if name == "paths" else f"--{name.replace('_', '-')}" for name in names]
        raise UserError(f"{reason}; leave {', '.join(told)} out")


def _names(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from value
        elif is_dataclass(value) and all(field.default is not MISSING for field in fields(value)):
            # A group of options; a place in a bucket is a dataclass too, and is one option.
            yield from (field.name for field in fields(value) if getattr(value, field.name) != field.default)
        else:
            yield name
