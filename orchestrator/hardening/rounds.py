"""One round of a retraining: the attack on the net before, the net that learns from it, and what that net withstands.

A round's folder is its memory, `rounds/0001/`: `sample.parquet` where not all training faces are
attacked, `attack/NAME/` (a run of the batch attack for each attack), then
`joined.parquet` (what of it joined the training), `fit/`, `net/`, `judged/NAME/`, and at the end `round.json`, its row.
What has its file is not done again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import pyarrow as pa

from dxray.attacks import find
from dxray.models.victims.checkpoint import CARD, WEIGHTS, net_of_round
from dxray.orchestrator.attack.attack import AttackConfig, attack
from dxray.orchestrator.console import Console
from dxray.orchestrator.hardening.new_faces import held_out_table, sample
from dxray.orchestrator.hardening.round_training import Recipe, on_a_worker
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.store import column, read_json, read_rows, replace_folder, write_json, write_table
from dxray.orchestrator.runs.timing import timed

ROW, TIMING = "round.json", "timing.json"

# Those that judge each net: along its gradients, by its answers alone, and the smallest change in L2.
JUDGES: dict[str, dict[str, Any]] = {"apgd": {"steps": 20}, "square": {"queries": 200}, "dx": {"norm": "l2"}}

_MEDIAN = "of the changes that dx fools it by, over the faces it had right; null: half of these are not fooled"
ROUND = pa.schema(
    [
        column("round", pa.int32(), "counted on through all generations"),
        column("generation", pa.int32(), "0: the first training; then one for each time that new faces came"),
        column("parent_round", pa.int32(), "whose net this one comes from; of a generation's first row: is"),
        column("method", pa.string(), "rounds, or the adversarial training in each batch"),
        column("attacks", pa.list_(pa.string()), "used on the parent, whose adversaries joined the training"),
        column("attacked", pa.int64(), "training faces, counted for each attack; null where none was attacked"),
        column("fooled", pa.int64(), "of these: adversaries that joined the training"),
        column("adversaries", pa.int64(), "in the training, of all rounds"),
        column("train_images", pa.int64(), "learnt from in each epoch, adversaries included"),
        column("epochs", pa.int32(), "of this round's training; 0: the net was only measured"),
        column("loss", pa.float64(), "mean over the last epoch", "nats"),
        column("validation_accuracy", pa.float64(), "of the faces as they are", "[0, 1]"),
        column("test_accuracy", pa.float64(), "the same of the test faces, which decide nothing", "[0, 1]"),
        column("held_out", pa.int64(), "validation faces that were attacked to judge the net"),
        column("eps", pa.float64(), "budget of apgd and square, in Linf", "[0, 1] pixel units"),
        column("robust_accuracy", pa.float64(), "right after both apgd and square", "[0, 1]"),
        column("robust_apgd", pa.float64(), "right after apgd", "[0, 1]"),
        column("robust_square", pa.float64(), "right after square", "[0, 1]"),
        column(
            "fooled_within", pa.float64(), "share of the faces it had right that dx fools within `within`", "[0, 1]"
        ),
        column("within", pa.float64(), "in L2", "[0, 1] pixel units"),
        column("median_l2", pa.float64(), _MEDIAN, "[0, 1] pixel units"),
        column("unseen", pa.list_(pa.string()), "those of apgd, square and dx that were not used in training"),
        column("changed", pa.float64(), "share of validation faces answered otherwise than by the parent", "[0, 1]"),
        column("weight_distance", pa.float64(), "L2 distance to the parent's weights over their length"),
        column("collapsed_epoch", pa.int32(), "after which an adversarial training had over-fitted catastrophically"),
        column("net_sha256", pa.string(), "of the net: architecture and weights"),
    ]
)
JOINED = pa.schema(
    [
        column("name", pa.string(), "of the adversary: round, attack and parent; unique in the run"),
        column("parent", pa.string(), "the training face that it was made of"),
        column("round", pa.int32(), "in which it joined the training"),
        column("attack", pa.string(), "that made it"),
        column("label", pa.string(), "true class, which the net did not say"),
        column("l2", pa.float32(), "root of the sum of squared changes", "[0, 1] pixel units"),
        column("linf", pa.float32(), "largest absolute change", "[0, 1] pixel units"),
        column("fooled_net_sha256", pa.string(), "of the net that it fooled"),
        column("image", pa.binary(), "8-bit PNG at the net's size"),
    ]
)
TIMES = ("attack", "fit", "judge")
_FOUGHT = ("fooled", "missed")  # the faces that the net had right


def run_round(
    run: Place,
    number: int,
    generation: int,
    recipe: Recipe,
    attacks: Mapping[str, Mapping[str, Any]],
    console: Console,
    *,
    eps: float,
    within: float,
    attack_faces: int | None = None,
    address: str | None,
) -> dict[str, Any]:
    """The row of a round, as in `rounds.parquet`; what of it was done before a kill is not done again.

    Args:
        attacks: on the parent: name -> options. None for a net that is only measured, or for the methods that attack in
            each batch.
        eps: Linf budget of the judges. within: the L2 distance at which `fooled_within` counts.
        attack_faces: so many training faces are attacked, others in each round; None: all.

    Raises:
        UserError: an attack or the training cannot be done.
    """
    folder = _folder(run, number)
    if (folder / ROW).exists():
        return read_json(folder / ROW)
    clock = dict.fromkeys(TIMES, 0.0) | (read_json(folder / TIMING) if (folder / TIMING).exists() else {})
    parent = net_of_round(run, recipe.parent)
    row: dict[str, Any] = dict.fromkeys(ROUND.names)
    row |= {"round": number, "generation": generation, "parent_round": recipe.parent, "method": recipe.method}
    row |= {"attacks": list(attacks), "eps": eps, "within": within}
    row["unseen"] = [name for name in JUDGES if name not in attacks]
    if attacks:
        with _timed(folder, clock, "attack"):
            train = run / "faces" / "train"
            if attack_faces is not None:
                train = folder / "sample.parquet"
                sample(run, attack_faces, (recipe.seed, number), train)
            for name, options in attacks.items():
                asked = AttackConfig(
                    [f"parquet:{train}"], str(parent), attack=name, options=dict(options), seed=recipe.seed, png=False
                )
                attack(asked, folder / "attack" / name, console, address=address)
            row |= _joined(folder, number, list(attacks))
        console.say(f"round {number}: {row['fooled']:,} adversaries of {row['attacked']:,} attacks join the training")
    if attacks and not row["fooled"]:
        # Nothing to learn from: the net stays as it is, and so do its figures.
        before = read_json(_folder(run, recipe.parent) / ROW)
        kept = {name: before[name] for name in ROUND.names if row[name] is None}
        row |= kept | {"epochs": 0, "changed": 0.0, "weight_distance": 0.0}
        replace_folder(parent, net_of_round(run, number), only=[WEIGHTS, CARD])
    else:
        with _timed(folder, clock, "fit"):
            fitted = on_a_worker(run, number, recipe, console)
        row |= {name: fitted[name] for name in ROUND.names if name in fitted}
        with _timed(folder, clock, "judge"):
            row |= _judged(run, number, generation, recipe.seed, console, eps=eps, within=within, address=address)
    write_json(folder / ROW, row)
    return row


def rows_of(run: Place) -> list[dict[str, Any]]:
    """The rows of all rounds that are done, in their order."""
    return [read_json(file) for file in files(run, f"rounds/*/{ROW}")]


def seconds_of(run: Place, number: int) -> dict[str, float]:
    """Seconds of the stages of a round."""
    file = _folder(run, number) / TIMING
    return {name: float(value) for name, value in read_json(file).items()} if file.exists() else {}


def write_rounds(run: Place) -> None:
    """`rounds.parquet`, the same however often the run was stopped; `timing.parquet`, what differs."""
    rows = rows_of(run)
    write_table(run / "rounds.parquet", pa.Table.from_pylist(rows, schema=ROUND))
    times = [{"round": row["round"], **seconds_of(run, row["round"])} for row in rows]
    write_table(run / "timing.parquet", pa.Table.from_pylist(times))


def told(row: Mapping[str, Any]) -> str:
    """A round in a line, for people."""
    within = "-" if row["fooled_within"] is None else f"{row['fooled_within']:.1%}"
    return (
        f"round {row['round']}: clean {row['validation_accuracy']:.1%}, robust {row['robust_accuracy']:.1%} at Linf "
        f"{row['eps'] * 255:g}/255, {within} fooled within L2 {row['within']:g} ({row['held_out']:,} held-out faces)"
    )


def training_attack(name: str, eps: float, norm: str | None) -> dict[str, Any]:
    """The options with which an attack is used in training: a budget where it takes one.

    Raises:
        ValueError: no attack is called so.
    """
    options: dict[str, Any] = {} if norm is None else {"norm": norm}
    if "eps" in signature(find(name)).parameters:
        options["eps"] = eps
    return options


def _joined(folder: Place, number: int, attacks: Sequence[str]) -> dict[str, int]:
    """Write what of the attacks joins the training; how many were attacked, and how many fooled."""
    attacked, made = 0, []
    for name in attacks:
        run = folder / "attack" / name
        classes = read_json(run / "attack.json")["classes"]
        for row in read_rows(run, ["name", "status", "label", "l2", "linf", "net_sha256", "modified"]):
            attacked += row["status"] != "unreadable"
            if row["status"] == "fooled":
                made.append(
                    {
                        "name": f"round-{number:04d}/{name}/{row['name']}",
                        "parent": row["name"],
                        "round": number,
                        "attack": name,
                        "label": classes[row["label"]],
                        "l2": row["l2"],
                        "linf": row["linf"],
                        "fooled_net_sha256": row["net_sha256"],
                        "image": row["modified"]["bytes"],
                    }
                )
    write_table(folder / "joined.parquet", pa.Table.from_pylist(made, schema=JOINED), group_rows=512)
    return {"attacked": attacked, "fooled": len(made)}


def _judged(
    run: Place,
    number: int,
    generation: int,
    seed: int,
    console: Console,
    *,
    eps: float,
    within: float,
    address: str | None,
) -> dict[str, Any]:
    """What the net of the round withstands, on the held-out faces of its generation."""
    faces = f"parquet:{held_out_table(run, generation)}"
    right: dict[str, set[str]] = {}
    for name, options in JUDGES.items():
        out = _folder(run, number) / "judged" / name
        budget = {} if name == "dx" else {"norm": "linf", "eps": eps}
        asked = AttackConfig(
            [faces], str(net_of_round(run, number)), attack=name, options=options | budget, seed=seed, png=False
        )
        n = attack(asked, out, console, address=address)["inputs"]
        rows = list(read_rows(out, ["name", "status", "l2"]))
        right[name] = {row["name"] for row in rows if row["status"] == "missed"}
    return {
        "held_out": n,
        "robust_accuracy": len(right["apgd"] & right["square"]) / n,
        "robust_apgd": len(right["apgd"]) / n,
        "robust_square": len(right["square"]) / n,
        **smallest_changes(rows, within),
    }


def smallest_changes(rows: Sequence[Mapping[str, Any]], within: float) -> dict[str, float | None]:
    """`fooled_within` and `median_l2` of the rows of a minimal attack."""
    changes = [row["l2"] if row["status"] == "fooled" else math.inf for row in rows if row["status"] in _FOUGHT]
    if not changes:
        return {"fooled_within": None, "median_l2": None}
    median = float(np.median(changes))
    return {
        "fooled_within": sum(l2 <= within for l2 in changes) / len(changes),
        "median_l2": median if math.isfinite(median) else None,  # JSON has no infinity
    }


def _folder(run: Place, number: int) -> Any:
    return net_of_round(run, number).parent


@contextmanager
def _timed(folder: Place, clock: dict[str, float], stage: str) -> Iterator[None]:
    try:
        with timed(clock, stage):
            yield
    finally:
        write_json(folder / TIMING, clock)
