"""`dxray robustness`: how much nets withstand, with and without a defence, judged by attacks that know the defence."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from dxray.defenses import TAUGHT, defended, parse, text_of
from dxray.defenses.front import InFront
from dxray.defenses.judging import WAYS, judged
from dxray.defenses.victim import behind, restore
from dxray.models.data.faces import Faces, read
from dxray.models.versions import versions
from dxray.models.victims.checkpoint import ModelCard, save
from dxray.orchestrator.attack.net_checks import LABELLED, MOST, of_labels
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.reports.curves import draw_robustness
from dxray.orchestrator.runs.store import column, writable_folder, write_bytes, write_json, write_table
from dxray.orchestrator.runs.working_copy import load_net, read_net

FORMAT = "dxray robustness 1"
LESSON = 4000  # training faces that a defence learns from

_LEFT = "share right after"
ROWS = pa.schema(
    [
        column("model", pa.string(), "as it was given"),
        column("defense", pa.string(), "that it was put behind, or was saved with"),
        column("norm", pa.string(), "linf or l2; empty: the faces as they are"),
        column("eps", pa.float64(), "budget of the attacks", "[0, 1] pixel units"),
        column("robust_accuracy", pa.float64(), f"{_LEFT} every one of the attacks below", "[0, 1]"),
        column("low", pa.float64(), "of its 95 % interval (Wilson)", "[0, 1]"),
        column("high", pa.float64(), "of its 95 % interval (Wilson)", "[0, 1]"),
        column("white_box", pa.float64(), f"{_LEFT} APGD through the defence: it is adaptive", "[0, 1]"),
        column("transfer", pa.float64(), f"{_LEFT} APGD on `transfer_from`; null: on none", "[0, 1]"),
        column("gradient_free", pa.float64(), f"{_LEFT} Square, by answers alone; null: left out", "[0, 1]"),
        column("masked", pa.bool_(), "white_box is surely above another: the gradients hide how to fool it"),
        column("majority", pa.float64(), "share of the larger class, which one answer for all would reach", "[0, 1]"),
        column("median", pa.float64(), "smallest change in this norm; null: most withstood", "[0, 1] pixel units"),
        column("n", pa.int64(), "faces"),
        column("transfer_from", pa.string(), "the net without its defence (naive), or another net"),
        column("net_sha256", pa.string(), "of the net with its defence"),
    ]
)


@dataclass
class RobustnessConfig:
    """What is asked.

    Attributes:
        models: as `working_copy.load_net` takes them, each by itself and behind each of `defenses`, if any.
        data, label, data_seed: as `faces.read` takes them; the test split is attacked.
        classes: what numbers mean where labels are numbers, 0 the first; None: the nets' classes, if trained by dxray.
        defenses: as `defenses.parse` takes them. One that must learn does so on the first `LESSON` training faces.
        surrogate: another net, on which transferred images are made for undefended ones; None: the first other one of
            `models`.
        linf, l2: budgets in [0, 1] pixel units.
        count: faces. steps, queries: see `judging.judged`.
    """

    models: list[str]
    data: str
    label: str | None = None
    data_seed: int = 0
    defenses: list[str] | None = None
    surrogate: str | None = None
    linf: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255)
    l2: tuple[float, ...] = (0.25, 0.5, 1.0)
    count: int = 256
    steps: int = 50
    queries: int = 200
    seed: int = 0
    classes: list[str] | None = None


@dataclass(frozen=True, eq=False)
class _Judged:
    """A net to be judged; `without`: the same without its defence, `net` itself where it has none."""

    model: str
    net: nn.Module
    without: nn.Module
    card: ModelCard


def robustness(config: RobustnessConfig, out: Path, console: Console) -> dict[str, Any]:
    """Judge every net; the rows are also in `out`, as `robustness.parquet`, `.json` and `.png`.

    A defence that had to learn is saved with its net, in `out/nets/`.

    Raises:
        UserError: the request makes no sense, or the nets take other images or classes than the first.
        FacesError, CheckpointError: faces or a net cannot be read.
    """
    _check(config)
    defences = [_parsed(text) for text in config.defenses or []]
    loaded = {model: load_net(model) for model in [*config.models, *([config.surrogate] if config.surrogate else [])]}
    first = loaded[config.models[0]][1]
    for model, (_, card) in loaded.items():
        _must_agree(model, card, config.models[0], first)
    with console.share(f"reading {config.data}") as on_share:
        faces = read(
            config.data,
            size=first.size,
            channels=first.channels,
            classes=first.classes,
            seed=config.data_seed,
            label=config.label,
            numbers=config.classes or first.numbers,
            on_share=on_share,
        )
    console.say(faces.labelled_by)
    test = faces.shuffled("test")
    images, labels = test.images[: config.count], test.labels[: config.count]
    if not len(images):
        raise UserError(f"'{config.data}' has no test faces; give a source with more")
    batches = [(test.images[at : at + LABELLED], test.labels[at : at + LABELLED]) for at in range(0, MOST, LABELLED)]
    said = {
        model: of_labels(net, card, [batch for batch in batches if len(batch[1])], faces.numbers)
        for model, (net, card) in console.over("checking", list(loaded.items()), "nets")
    }
    for model, findings in said.items():
        for finding in findings:
            console.say(f"warning: {model}: {finding}")
    out = writable_folder(out, "the robustness figures")
    todo = [
        one for model in config.models for one in _nets(model, *loaded[model], defences, faces, config, out, console)
    ]
    rows: list[dict[str, Any]] = []
    budgets = [("linf", eps) for eps in sorted(config.linf)] + [("l2", eps) for eps in sorted(config.l2)]
    with console.bar("robustness", len(todo), "nets") as bar:
        for number, one in enumerate(todo):
            name, plain = _transferred_from(one, todo, config, loaded)
            of_net = {"model": one.model, "defense": text_of(one.card.defence), "transfer_from": name}
            found = judged(
                one.net,
                images,
                labels,
                plain=plain,
                budgets=budgets,
                steps=config.steps,
                queries=config.queries,
                smallest=True,
                seed=config.seed,
                on_share=bar.part(number),
            )
            rows += [{**of_net, **row, "net_sha256": one.card.sha256} for row in found]
            left = ", ".join(f"{_percent(row['robust_accuracy'])} {_budget(row)}" for row in found)
            console.say(f"{one.model}, {of_net['defense']}: right of {len(labels):,}: {left}")
    result = {"format": FORMAT, "config": asdict(config), "data_sha256": faces.sha256(), "rows": rows}
    result["labels"] = faces.labelled_by
    result["findings"] = {model: [asdict(finding) for finding in findings] for model, findings in said.items()}
    write_table(out / "robustness.parquet", pa.Table.from_pylist(rows, schema=ROWS))
    write_json(out / "robustness.json", result | {"versions": versions()})
    write_bytes(out / "robustness.png", draw_robustness(rows))
    return result | {"out": str(out)}


def show(result: dict[str, Any], console: Console) -> None:
    """The weakest figure in front: what is left after all attacks; then what each of them left."""
    rows = result["rows"]
    n, majority = rows[0]["n"], rows[0]["majority"]
    lines = []
    for row in rows:
        median = None if row["median"] is None else _size(row["norm"], row["median"])
        others = [_percent(row[way]) if row["norm"] else None for way in WAYS]
        interval = f"{_percent(row['robust_accuracy'])} ({row['low']:.1%}-{row['high']:.1%})"
        head = [row["model"], row["defense"]] if not row["norm"] else ["", ""]
        lines.append([*head, _budget(row), interval, *others, "MASKED" if row["masked"] else "", median])
    console.table(
        f"right of {n:,} test faces, and the 95 % interval; one answer for all would be right for {majority:.1%}",
        ["net", "defence", "within", "after all attacks", "white box", "transfer", "by answers", "", "median change"],
        lines,
    )
    console.say(
        "white box: APGD through the defence (adaptive); transfer: APGD on the net without it (naive), or on another "
        "net; by answers: Square"
    )
    if any(row["masked"] for row in rows):
        console.say(
            "MASKED: the net's own gradients fool less than another way does, so its white-box figure is worth nothing"
        )
    console.say(f"the rows and a picture of the curves: {result['out']}/robustness.parquet, .json, .png")


def _nets(
    model: str,
    net: nn.Module,
    card: ModelCard,
    defences: Sequence[dict[str, Any]],
    faces: Faces,
    config: RobustnessConfig,
    out: Path,
    console: Console,
) -> list[_Judged]:
    """A model by itself, or behind each defence that was asked for."""
    if not defences:
        return [_Judged(model, net, _without(net, card), card)]
    if card.defence and any(defences):
        raise UserError(f"'{model}' is behind {text_of(card.defence)} already; leave it or --defense out")
    found = []
    for number, defence in enumerate(defences):
        if not defence:
            found.append(_Judged(model, net, net, card))
            continue
        if defence["name"] in TAUGHT:
            place = out / "nets" / f"{config.models.index(model)}-{number}"
            console.say(f"{text_of(defence)} learns in front of '{model}', and is saved in '{place}'")
            with console.share(f"{text_of(defence)} learns") as on_share:
                put, of_both = _taught(net, card, defence, faces, config.seed, place, on_share)
        else:
            try:
                put, of_both = restore(*behind(*read_net(model), defence))
            except ValueError as wrong:
                raise UserError(f"--defense {text_of(defence)} with '{model}': {wrong}") from None
        found.append(_Judged(model, put, net, of_both))
    return found


def _taught(
    net: nn.Module,
    card: ModelCard,
    defence: dict[str, Any],
    faces: Faces,
    seed: int,
    place: Path,
    on_share: Callable[[float], None],
) -> tuple[nn.Module, ModelCard]:
    """The net behind a defence that has learnt from some training faces, saved in `place`; and its card."""
    card = copy.deepcopy(card)
    card.defence = parse(text_of(defence), channels=card.channels)
    torch.manual_seed(seed)
    put = defended(net, defence["name"], **card.defence["parameters"])
    train = faces.shuffled("train")
    TAUGHT[defence["name"]](put, train.images[:LESSON], train.labels[:LESSON], seed=seed, on_share=on_share)
    return put, save(put, card, place)


def _without(net: nn.Module, card: ModelCard) -> nn.Module:
    """The net that stands behind a defence it was saved with."""
    if not card.defence:
        return net
    if isinstance(net, InFront):
        return net.net
    bare = copy.deepcopy(card)
    bare.defence = {}
    plain = bare.build()
    plain.load_state_dict(net.state_dict())
    return plain.eval()


def _transferred_from(
    one: _Judged, todo: Sequence[_Judged], config: RobustnessConfig, loaded: dict[str, tuple[nn.Module, ModelCard]]
) -> tuple[str | None, nn.Module | None]:
    """The net without its defence; for an undefended one another net."""
    if one.without is not one.net:
        return f"{one.model} without its defence", one.without
    if config.surrogate:
        return config.surrogate, loaded[config.surrogate][0]
    other = next((other for other in todo if other.model != one.model), None)
    return (other.model, other.without) if other else (None, None)


def _parsed(text: str) -> dict[str, Any]:
    try:
        return parse(text)
    except ValueError as wrong:
        raise UserError(f"--defense {text}: {wrong}") from None


def _check(config: RobustnessConfig) -> None:
    budgets = [*config.linf, *config.l2]
    if not budgets or not all(eps > 0 for eps in budgets) or max(config.linf, default=0) > 1:
        raise UserError("expected one budget at least, above 0; those of --eps are shares of the grey levels, as 4/255")
    if config.count < 1 or config.steps < 1:
        raise UserError("a net is judged on at least 1 face by at least 1 step; raise --count or --steps")


def _must_agree(model: str, card: ModelCard, of: str, first: ModelCard) -> None:
    for what in ("classes", "channels", "size"):
        theirs, ours = getattr(card, what), getattr(first, what)
        if theirs != ours:
            raise UserError(f"'{model}' has {what} {theirs}, and '{of}' {ours}; judge nets of the same images together")


def _budget(row: dict[str, Any]) -> str:
    if not row["norm"]:
        return "unchanged"
    return f"{'Linf' if row['norm'] == 'linf' else 'L2'} {_size(row['norm'], row['eps'])}"


def _size(norm: str, size: float) -> str:
    return f"{size * 255:.3g}/255" if norm == "linf" else f"{size:.3g}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"
