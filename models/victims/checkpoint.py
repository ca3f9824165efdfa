"""Checkpoints: `model.safetensors` (the weights) beside `model.json` (what they are). Nothing is ever unpickled."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from dxray.models.errors import InputError
from dxray.models.nets import MODELS, build, parameters_of
from dxray.models.versions import versions

FORMAT = "dxray checkpoint 2"
WEIGHTS, CARD = "model.safetensors", "model.json"
ROUND = "#round="  # RUN#round=3: the net of a round of `dxray retrain`

# The net behind a defence: `defend(net, name, **parameters)`. Defences build on nets, so nets cannot know them: who
# loads a net that has one gives it.
Defend = Callable[..., nn.Module]


class CheckpointError(InputError):
    """A checkpoint that cannot be used."""


@dataclass
class ModelCard:
    """What `model.json` says of a net.

    Attributes:
        net: its name in `MODELS`.
        parameters: its keyword arguments, without `classes`, `channels` and `size`; those of a net in `MODELS` that
            are not given become its defaults, so that a saved net does not depend on them later.
        classes: names of the classes, in the order of the logits.
        channels: 1 (grey) or 3 (RGB).
        size: height and width in pixels.
        trained: what made the weights: data, seed, epochs, accuracies, recipe.
        versions: of the software that wrote it.
        defence: where the net is behind one, its `name` and all its `parameters`, as `defenses.parse` gives them; the
            weights are then those of both.
        sha256: of the weights file together with the architecture; filled in by `save` and checked by `load`.
    """

    net: str
    parameters: dict[str, Any]
    classes: tuple[str, ...]
    channels: int = 1
    size: tuple[int, int] = (48, 48)
    trained: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    defence: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.net in MODELS:
            self.parameters = parameters_of(self.net) | self.parameters

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names that a number counts where it is a label: classes that dxray has trained, no foreign outputs."""
        return self.classes if self.net in MODELS else ()

    def build(self, defend: Defend | None = None) -> nn.Module:
        """A net of this architecture, with freshly drawn weights; ValueError where it needs a `defend` and has none."""
        net = build(
            self.net, **self.parameters, classes=len(self.classes), channels=self.channels, size=tuple(self.size)
        )
        if not self.defence:
            return net
        if defend is None:
            raise ValueError(f"it is behind the defence '{self.defence['name']}'; load it by dxray.defenses.victim")
        return defend(net, self.defence["name"], **self.defence["parameters"])

    def fingerprint(self, weights: bytes) -> str:
        architecture: list[Any] = [self.net, self.parameters, list(self.classes), self.channels, list(self.size)]
        architecture += [self.defence] if self.defence else []
        return hashlib.sha256(json.dumps(architecture, sort_keys=True).encode() + b"\0" + weights).hexdigest()


def save(net: nn.Module, card: ModelCard, directory: Path | str) -> ModelCard:
    """Write `net` to `directory` (made if absent); the card as written, with versions and sha256, is returned.

    The card comes last and names the weights' hash: a process killed half-way leaves nothing that loads wrongly.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    card, card_bytes, weights = packed(net, card)
    _replace(directory / WEIGHTS, weights)
    _replace(directory / CARD, card_bytes)
    return card


def packed(net: nn.Module, card: ModelCard) -> tuple[ModelCard, bytes, bytes]:
    """The card as `save` would write it, and the bytes of both files, as `restore` takes them."""
    weights = save_tensors({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()})
    card = ModelCard(**(asdict(card) | {"versions": versions(), "sha256": card.fingerprint(weights)}))
    written = {"format": FORMAT, **asdict(card), "parameter_count": sum(p.numel() for p in net.parameters())}
    return card, (json.dumps(written, indent=2) + "\n").encode(), weights


def load(path: Path | str, *, defend: Defend | None = None) -> tuple[nn.Module, ModelCard]:
    """The net (float32, on the CPU, in eval mode) and its card.

    Args:
        path: a checkpoint's folder, one of its two files, a sweep's folder (its best net), a retraining's (its current
            net), or `RUN#round=N`, the net of one of its rounds.
        defend: what puts a net behind its defence, such as `defenses.defended`, for nets that have one.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, of another architecture, or not in this format.
    """
    return restore(*read(path), defend=defend)


def read(path: Path | str) -> tuple[bytes, bytes]:
    """The bytes of a checkpoint's card and weights, as `restore` takes them: what is sent to another process."""
    directory = _find(Path(path).expanduser())
    try:
        return (directory / CARD).read_bytes(), (directory / WEIGHTS).read_bytes()
    except OSError as wrong:
        raise CheckpointError(
            f"{wrong.filename} cannot be read ({wrong.strerror}); train or copy the net again"
        ) from None


def restore(card_bytes: bytes, weights: bytes, *, defend: Defend | None = None) -> tuple[nn.Module, ModelCard]:
    """As `load`, from what `read` gave."""
    card = _parse_card(card_bytes)
    try:
        tensors = load_tensors(weights)
    except SafetensorError as wrong:
        raise CheckpointError(f"{WEIGHTS} is damaged or truncated ({wrong}); train or copy the net again") from None
    try:
        net = card.build(defend)
        net.load_state_dict(tensors)
    except (ValueError, RuntimeError, KeyError, TypeError) as wrong:
        reason = " ".join(str(wrong).split())
        raise CheckpointError(
            f"{WEIGHTS} does not hold the {card.net} that {CARD} describes ({reason[:160]}); copy both files again"
        ) from None
    if card.fingerprint(weights) != card.sha256:
        raise CheckpointError(f"{WEIGHTS} is not the file that {CARD} was written for; copy both files again")
    return net.eval(), card


def _find(path: Path) -> Path:
    run, mark, number = str(path).rpartition(ROUND)
    if mark and not path.exists():
        if not number.isdecimal():
            raise CheckpointError(f"{path} names no round: expected a number, as in {run}{ROUND}3")
        path = net_of_round(Path(run), int(number))
        if not (path / CARD).is_file():
            rounds = sorted(int(card.parts[-3]) for card in Path(run).glob(f"rounds/*/net/{CARD}"))
            there = f"its rounds are {rounds[0]} to {rounds[-1]}" if rounds else "expected the folder of a retraining"
            raise CheckpointError(f"{run} has no net of a round {number}; {there}")
    if path.name in (WEIGHTS, CARD):
        path = path.parent
    if path.is_file():
        raise CheckpointError(
            f"{path} is no dxray checkpoint; expected a folder with {WEIGHTS} and {CARD} "
            "(pickled files such as .pt and .pth are never read: they can run code)"
        )
    for directory in (path, path / "best", path / "current"):
        if (directory / CARD).is_file():
            return directory
    state = "has no" if path.is_dir() else "does not exist, so there is no"
    raise CheckpointError(f"{path} {state} {CARD}; give the folder of a net that `dxray sweep` has saved")


def net_of_round(run: Any, number: int) -> Any:
    """Where `dxray retrain` keeps the net of a round, what `RUN#round=N` means: a `Path`, or whatever `run` is."""
    return run / "rounds" / f"{number:04d}" / "net"


def _parse_card(content: bytes) -> ModelCard:
    try:
        read = json.loads(content)
        if read.pop("format") != FORMAT:
            raise CheckpointError(f"{CARD} is of another format than '{FORMAT}'; train the net again")
        if (net := read["net"]) not in MODELS:
            raise CheckpointError(f"{CARD} asks for a net called '{net}'; known are: {', '.join(MODELS)}")
        # Not filled in: the defaults of today need not be those of the day on which the net was saved.
        if missing := parameters_of(net).keys() - read["parameters"].keys():
            said = ", ".join(sorted(missing))
            raise CheckpointError(f"{CARD} does not say the {said} of its {net}; copy it again, or train the net again")
        del read["parameter_count"]
        return ModelCard(**read | {"classes": tuple(read["classes"]), "size": tuple(read["size"])})
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as wrong:
        raise CheckpointError(
            f"{CARD} is damaged or is not a net's card ({wrong}); train or copy the net again"
        ) from None


def _replace(path: Path, content: bytes) -> None:
    """Write and rename, so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
