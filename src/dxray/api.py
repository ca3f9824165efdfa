"""The functions of `import dxray`, for a notebook or a script: the command's work, by the command's own code.

Progress goes to standard error, as plain lines or a bar; what comes back is a result of `dxray.notebook`.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dxray.attacks import ATTACKS
from dxray.attacks.engine import scoring
from dxray.attacks.engine.lattice import from_levels, to_uint8
from dxray.attacks.engine.query import Query
from dxray.models.victims.checkpoint import ModelCard
from dxray.notebook import RUNS, AttackRun, RetrainRun, Scores, SweepRun
from dxray.orchestrator.attack.attack import AttackConfig, labeller_of
from dxray.orchestrator.attack.attack import attack as run_attack
from dxray.orchestrator.attack.decoding import contents
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.hardening.request import RetrainConfig
from dxray.orchestrator.hardening.retrain import retrain as run_retrain
from dxray.orchestrator.hardening.round_training import ROUNDS
from dxray.orchestrator.hardening.stop_rules import Rules
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.places import place
from dxray.orchestrator.runs.store import must_be_asked_alike
from dxray.orchestrator.runs.working_copy import load_net
from dxray.orchestrator.sweep.grid import PARAMETERS, Grid, checked
from dxray.orchestrator.sweep.grid_files import preset as preset_file
from dxray.orchestrator.sweep.grid_files import read_grid

# Arguments of an attack that come with each image, or that a run decides.
_NO_OPTIONS = {"net", "inputs", "labels", "targets", "mask", "seed", "batch", "ledger"}

if TYPE_CHECKING:

    class Net(nn.Module):
        """What a type checker knows of a net that `load` gave: it has a card. It is a module like any other."""

        card: ModelCard


def load(path: str | Place) -> "Net":
    """The net at `path`, on the CPU and in eval mode: images float32 `(N, C, H, W)` in [0, 1] to logits `(N, classes)`.

    Its attribute `card` says what it is: `classes` (their names, in the order of the logits), `channels`, `size`
    (height and width in pixels), `trained` and the rest of `ModelCard`. A net that was saved with a defence comes
    behind it.

    Args:
        path: a sweep's folder (its best net), a retraining's (the net in use) or `RUN#round=N`, a checkpoint, a file of
            `torch.export.save` or TorchScript, or the folder of a Hugging Face image classifier; `s3://` and `gs://`
            too.

    Raises:
        CheckpointError: there is no net, or it is damaged, pickled, or does not say what images it takes.
        UserError: a bucket cannot be read.
    """
    net, card = load_net(_place(path))
    loaded = cast("Net", net)
    loaded.card = card
    return loaded


def read(
    paths: str | Path | Sequence[str | Path],
    net: nn.Module,
    *,
    labels: str = "auto",
    label: str | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Faces as `dxray attack` reads them for this net.

    Args:
        paths: one or several of: an image, a folder, a pattern (`faces/*.png`), `list:FILE`, `parquet:FILE`,
            `hf:NAME`, `s3://...`, `gs://...`.
        net: one that `load` gave: its card says which size, channels and classes are wanted.
        labels: where true classes come from: "utkface" (the file's name), "folder" (the folder's name), "none", or
            "auto": whichever is there, of a table its own column.
        label: that column; None: gender, label, sex, or one named for a class.
        classes: what numbers mean where labels are numbers, 0 the first; None: the net's classes, if dxray trained it.

    Returns:
        Images float32 `(N, C, H, W)` in [0, 1], and labels int64 `(N,)`. Where no class is known the label is the net's
        own answer, which so counts as right.

    Raises:
        UserError: nothing is there, an image cannot be read, or the net has no card.
    """
    card = getattr(net, "card", None)
    if not isinstance(card, ModelCard):
        raise UserError("the net has no card to say which images it takes; load it by dxray.load")
    labeller = labeller_of(card, labels, label, classes)
    inputs = list(list_inputs(_several(paths), classes=card.classes, labeller=labeller))
    _console().say(str(labeller))
    pixels = []
    for item, content in zip(inputs, contents(inputs, card), strict=True):
        if content.pixels is None:
            raise UserError(
                f"'{item.name}' cannot be read: {content.reason}; leave it out, or take dxray.attack_folder, which "
                "gives such an image a row that says so"
            )
        pixels.append(content.pixels)
    images = from_levels(torch.from_numpy(np.stack(pixels)))
    told = torch.tensor([-1 if item.label is None else item.label for item in inputs])
    unknown = torch.nonzero(told < 0).flatten()
    if len(unknown):
        with Query(net, torch.zeros_like(told)) as query:
            told[unknown] = query.logits(images[unknown], unknown).argmax(dim=1)
    return images, told


def score(
    net: nn.Module, inputs: Tensor, modified: Tensor, labels: Tensor | None = None, *, targets: Tensor | None = None
) -> Scores:
    """What an attack did, measured as in the rows of `dxray attack`: on the 8-bit images that a file would hold.

    Args:
        inputs, modified: the images before and after, float32 `(N, C, H, W)` in [0, 1]; they are rounded to k/255.
        labels: true classes int64 `(N,)`; None: what the net says of `inputs`.
        targets: classes int64 `(N,)` that were to be reached; None: any but the label.

    Raises:
        ValueError: the images differ in shape.
    """
    before, after = to_uint8(inputs.cpu()), to_uint8(modified.cpu())
    outcome = scoring.score(net, before, after, labels, targets)
    right = outcome.predicted_before if labels is None else labels.cpu().numpy()
    card = getattr(net, "card", None)
    classes = card.classes if isinstance(card, ModelCard) else None
    return Scores(outcome, before, after, right, None if targets is None else targets.cpu().numpy(), classes)


def sweep(
    *,
    out: str | Place = "runs/sweep",
    data: str = "synthetic",
    preset: str | None = None,
    grid: str | Path | Grid | Sequence[Grid] | None = None,
    seed: int | Sequence[int] | None = None,
    address: str | None = None,
    **options: Any,
) -> SweepRun:
    """`dxray sweep`: train a net for each combination of the values given. Where `out` holds this sweep, it goes on.

        dxray.sweep(data="utkface:faces/", net="densenet", filters=[8, 16], out="runs/sweep")

    Args:
        out: its folder, or a place in a bucket.
        data: `synthetic[:N]`, `utkface:DIR`, `folder:DIR`, `parquet:FILE` or `hf:NAME`.
        preset: a grid that comes with dxray. grid: one of your own: a YAML or TOML file, parameters with their values,
            or a list of such, all of which are trained. `options` replace their values.
        seed: one or several, each of which trains every net once; the first also draws synthetic faces (0).
        address: of a running Ray cluster; None: a Ray of this machine's own.
        options: parameters of the grid with one value or several (`net`, `filters`, `epochs`, ...), and whatever else
            `dxray sweep --help` lists, with `_` for `-`: `size`, `classes` (a list), `search`, `samples`, `stop_early`,
            `validate` (name -> source), `time_limit`, ...

    Raises:
        TypeError: there is no such option; the text names those that there are.
        UserError, FacesError: `out` holds another sweep, the request makes no sense, or the faces cannot be read.
    """
    # Imported here, for it loads Ray, which a net or an image does not need.
    from dxray.orchestrator.sweep.sweep import SweepConfig, recorded, resume
    from dxray.orchestrator.sweep.sweep import sweep as run_sweep
    from dxray.orchestrator.sweep.tables import CONFIG

    settings = _names(SweepConfig, but={"data", "data_seed", "grid"})
    values, chosen = _parted(sweep, options, PARAMETERS, settings)
    if seed is not None:
        values["seed"] = seed
    config = SweepConfig(
        data=data,
        data_seed=int(np.ravel(0 if seed is None else seed)[0]),
        grid=_grids(preset, grid, values),
        **chosen,
    )
    run = SweepRun(_place(out))
    if not (run.out / CONFIG).exists():
        run_sweep(config, run.out, _console(), address=address)
        return run
    now = json.loads(json.dumps(asdict(config)))  # as it is on disk
    left_open = {"data"} | {name for name in now if now[name] is None}
    holds, otherwise = f"'{run.out}' holds a sweep", "choose another out"
    then = asdict(recorded(run.out)[0])
    for one in (then, now):
        one["validate"] = sorted(one["validate"])  # the same faces may be elsewhere by now, which `resume` looks into
    must_be_asked_alike(then, now, holds, otherwise, but=left_open)
    resume(run.out, _console(), data=config.data, validate=config.validate, address=address)
    return run


def attack_folder(
    paths: str | Path | Sequence[str | Path],
    model: str | Place,
    *,
    out: str | Place = "runs/attack",
    attack: str = "dx",
    defense: str = "none",
    labels: str = "auto",
    label: str | None = None,
    classes: Sequence[str] | None = None,
    target: str | None = None,
    seed: int = 0,
    name: str | None = None,
    png: bool | None = None,
    raw: bool = False,
    workers: str | None = None,
    address: str | None = None,
    gpus_per_worker: float | None = None,
    **options: Any,
) -> AttackRun:
    """`dxray attack`: a row for each image, and the triples as files. Where `out` holds this very run, it goes on.

        dxray.attack_folder("faces/", "runs/sweep", norm="linf", out="runs/attack")

    Args:
        paths, labels, label, classes: as `read` takes them. model: what `load` takes.
        out: the run's folder, or a place in a bucket.
        attack: its name. options: of that attack, such as `norm`, `effort`, `eps` (in [0, 1] pixel units), `steps`.
        defense: the net is put behind it first: "jumprelu:kappa=0.1", "jpeg:quality=50", ...
        target: name of the class to reach; None: any other than the label.
        name: of a single face's files. png: write triples as files; None: up to 10,000. raw: bare bytes too.
        workers: "auto", "local" (this process) or "ray".
        address: of a running Ray cluster. gpus_per_worker: share of a GPU for each worker.

    Raises:
        TypeError: the attack has no such option; the text names those that it has.
        UserError, CheckpointError: `out` holds another run, or images, net or options are not usable.
    """
    if attack in ATTACKS:
        known = {*signature(ATTACKS[attack]).parameters} - _NO_OPTIONS
        _must_know(attack_folder, options, known, f" with the attack '{attack}'")
    config = AttackConfig(
        paths=_several(paths),
        model=str(_place(model)),
        labels=labels,
        label=label,
        classes=None if classes is None else list(classes),
        attack=attack,
        options=options,
        target=target,
        seed=seed,
        png=png,
        raw=raw,
        name=name,
        defense=defense,
    )
    how: dict[str, Any] = {} if workers is None else {"workers": workers}
    run = AttackRun(_place(out))
    run_attack(config, run.out, _console(), address=address, gpus_per_worker=gpus_per_worker, **how)
    return run


def retrain(
    model: str | Place,
    *,
    out: str | Place = "runs/retrain",
    data: str = "synthetic",
    method: str = ROUNDS,
    attack: str | Sequence[str] = "dx",
    seed: int = 0,
    address: str | None = None,
    **options: Any,
) -> RetrainRun:
    """`dxray retrain`: harden a net in rounds of attack and training. Where `out` holds this very run, it goes on.

        dxray.retrain("runs/sweep", data="utkface:faces/", rounds=4, out="runs/retrain")

    Args:
        model: the net to begin with, as `load` takes it.
        out: the run's folder, or a place in a bucket.
        data: labelled faces, as for `sweep`.
        method: "rounds", or one that attacks within each batch: "fgsm", "nfgsm", "pgd", "free", "trades".
        attack: one or several, by which the rounds attack the training faces.
        address: of a running Ray cluster; None: a Ray of this machine's own.
        options: whatever else `dxray retrain --help` lists, with `_` for `-`: `rounds`, `epochs`, `eps` (in [0, 1]
            pixel units), `attack_faces`, `held_out`, `max_clean_drop`, `max_seconds`, ...

    Raises:
        TypeError: there is no such option; the text names those that there are.
        UserError, FacesError, CheckpointError: `out` holds another run, or request, faces or net are not usable.
    """
    settings = _names(
        RetrainConfig, but={"model", "data", "method", "attacks", "data_seed", "seed", "rules", "threads"}
    )
    rules, chosen = _parted(retrain, options, _names(Rules), settings)
    if method != ROUNDS:
        rules.setdefault("rounds", 1)
    config = RetrainConfig(
        model=str(_place(model)),
        data=data,
        method=method,
        attacks=_several(attack),
        data_seed=seed,
        seed=seed,
        rules=Rules(**rules),
        **chosen,
    )
    run = RetrainRun(_place(out))
    run_retrain(config, run.out, _console(), address=address)
    return run


def results(out: str | Place) -> SweepRun | AttackRun | RetrainRun:
    """What a sweep, an attack or a retraining left in `out`, whoever ran it; it may still run.

    Raises:
        UserError: there is no such run.
    """
    folder = _place(out)
    for kind in RUNS:
        if (folder / kind.record).exists():
            return kind(folder)
    raise UserError(
        f"'{folder}' holds no run, expected {', '.join(kind.record for kind in RUNS)}; give the folder of a sweep, an "
        "attack or a retraining"
    )


def _grids(
    preset: str | None, grid: str | Path | Grid | Sequence[Grid] | None, values: Grid
) -> Sequence[dict[str, list[Any]]]:
    """The grids that were asked for, with these values in place of their own."""
    if preset and grid:
        raise UserError("a sweep has a preset or a grid of your own; leave one of them out")
    if preset:
        return read_grid(preset_file(preset), values).grids
    if isinstance(grid, (str, Path)):
        return read_grid(Path(grid), values).grids
    parts = [grid or {}] if grid is None or isinstance(grid, Mapping) else grid
    return [{name: checked(name, value) for name, value in {**part, **values}.items()} for part in parts]


def _several(given: str | Path | Sequence[str | Path]) -> list[str]:
    """One alone as a list of one."""
    return [str(one) for one in ([given] if isinstance(given, (str, Path)) else given)]


def _place(given: str | Place) -> Place:
    """A folder or file, absolute, or a place in a bucket."""
    if not isinstance(given, (str, Place)):
        raise UserError(f"expected a path, s3:// or gs://, and {type(given).__name__} came")
    return (place(given) if isinstance(given, str) else given).expanduser().absolute()


def _names(config: type, *, but: Collection[str] = ()) -> list[str]:
    """The fields of a dataclass."""
    return [field.name for field in fields(config) if field.name not in but]


def _parted(
    function: Callable[..., Any], options: Mapping[str, Any], first: Collection[str], second: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that have a name of `first`, and those of `second`; TypeError where one has neither."""
    _must_know(function, options, [*first, *second])
    one, other = ({name: options[name] for name in options if name in known} for known in (first, second))
    return one, other


def _must_know(function: Callable[..., Any], options: Iterable[str], known: Collection[str], how: str = "") -> None:
    """TypeError, with all names that the function takes, where an option of it is none of those known."""
    for name in options:
        if name not in known:
            taken = sorted({*signature(function).parameters, *known} - {"options"})
            raise TypeError(f"{function.__name__}(){how} has no option '{name}'; it takes {', '.join(taken)}")


def _console() -> Console:
    return Console(as_json=True)  # standard output is the caller's own
