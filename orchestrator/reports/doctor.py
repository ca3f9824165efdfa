"""`dxray doctor`: what is wrong with the trainings of a sweep, or with a single net, and what to do about it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dxray.defenses.victim import load_victim
from dxray.models.data.faces import SPLITS, Faces, read
from dxray.models.data.labels import nameless
from dxray.models.doctor.diagnosis import CHECKS, Diagnosis, diagnose
from dxray.models.doctor.evidence import Evidence, Split, examine
from dxray.models.doctor.finding import FAULT
from dxray.models.doctor.label_checks import contradictions, suspects
from dxray.models.doctor.lr_range_test import MOST_STEPS, range_test
from dxray.models.nets import MODELS
from dxray.models.training.train import device_of_choice, fit
from dxray.models.versions import versions
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.reports.curves import draw_layers, draw_rates
from dxray.orchestrator.runs.store import read_json, writable_folder, write_bytes, write_json
from dxray.orchestrator.sweep.sweep import recorded
from dxray.orchestrator.sweep.tables import CONFIG, TRAINED, read_record
from dxray.orchestrator.sweep.trial import RESULT, card_of

FORMAT = "dxray doctor 1"
REPORT = "doctor.json"
RATES = 0.8  # share of an examination's time that the range test of the learning rate takes, about


@dataclass(frozen=True, eq=False)
class Training:
    """What is examined: a net, or the lack of one, and what is remembered of how it came about.

    Attributes:
        name: of the trial in its sweep, or of the net.
        net: None where the training diverged.
        trial: the parameters of the training, complete; None where they are not known.
        result: what `result.json` says of it; empty where there is none.
    """

    name: str
    card: ModelCard
    net: nn.Module | None
    trial: Mapping[str, Any] | None
    result: Mapping[str, Any]


def doctor(
    path: Path,
    console: Console,
    *,
    trial: int | None = None,
    data: str | None = None,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    quick: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Examine every trained trial of a sweep, one of them, or a net; returns what is also written to `doctor.json`.

    Args:
        path: the folder of a sweep or of a net, or any file that `victims.victim` reads.
        trial: of the sweep, that one alone.
        data, label, seed: as `faces.read` takes them; without `data`, what the sweep or the net was trained on.
        classes: what numbers mean where labels are numbers, 0 the first; None: the net's classes, if dxray trained it.
        quick: leave out the range test of the learning rate, which takes most of the time.
        out: folder for the results; None: `doctor/` in the folder of the sweep or the net.

    Raises:
        UserError: there is no such trial, or the data are unknown or not those of the training.
    """
    path = path.expanduser().absolute()
    whole = (path / CONFIG).is_file()
    if trial is not None and not whole:
        raise UserError(f"--trial chooses among the nets of a sweep, and '{path}' holds no {CONFIG}; leave it out")
    single = None if whole else _single(path)
    faces, others = _faces(path, single, data, label, classes, seed, console)
    console.say(faces.summary())
    out = writable_folder(out or (path if path.is_dir() else path.parent) / "doctor", "the doctor's report")
    todo: Sequence[Training | int] = [single] if single else []
    absent: dict[str, str] = {}
    if whole:
        todo, absent = _of_sweep(path, trial)
    if not todo:
        raise UserError(f"'{path}' holds no net to examine: {'; '.join(f'{n}: {why}' for n, why in absent.items())}")
    examined = []
    with console.bar("doctor", len(todo), "nets") as bar:
        for number, one in enumerate(todo):
            training = one if isinstance(one, Training) else _trial(path, one, faces)
            evidence = _evidence(training, faces, others, quick, bar.part(number, training.name))
            examined.append(_record(training, evidence, diagnose(evidence)))
            _draw(training, evidence, out, several=len(todo) > 1)
            bar.at(number + 1, training.name)
    faults = sum(finding["severity"] == FAULT for one in examined for finding in one["findings"])
    result = {"format": FORMAT, "examined": str(path), "data": faces.source, "faults": faults, "trainings": examined}
    result |= {"not_examined": absent, "out": str(out)}
    write_json(out / REPORT, result | {"versions": versions()})
    return result


def show(result: Mapping[str, Any], console: Console) -> None:
    """A table of the findings, and what was found in order or could not be checked."""
    several = len(result["trainings"]) > 1
    rows = [
        [*([one["name"]] if several else []), _named(finding), finding["evidence"], finding["remedy"]]
        for one in result["trainings"]
        for finding in one["findings"]
    ]
    if rows:
        header = [*(["trial"] if several else []), "finding", "evidence", "what to do"]
        console.table("what is wrong", header, rows)
    for one in result["trainings"]:
        where = f"{one['name']}: " if several else ""
        none = "" if one["findings"] else "nothing found: "
        console.say(f"{where}{none}{len(one['passed'])} of {len(CHECKS)} checks passed")
        reasons: dict[str, list[str]] = {}
        for name, why in one["not_checked"].items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            console.say(f"{where}not checked: {', '.join(names)} ({why})")
    for name, why in result["not_examined"].items():
        console.say(f"{name}: not examined ({why})")
    console.say(f"report and curves in {result['out']}")


def _named(finding: Mapping[str, Any]) -> str:
    return finding["name"] if finding["severity"] == FAULT else f"{finding['name']} ({finding['severity']})"


def _single(path: Path) -> Training:
    """A net by itself; with its history, where it lies in a sweep's folder."""
    net, card = load_victim(path)
    folder = path if path.is_dir() else path.parent
    result = read_json(folder / RESULT) if (folder / RESULT).is_file() else _same_net(folder.parent, card)
    return Training(path.name, card, net, card.trained.get("trial"), result)


def _same_net(sweep: Path, card: ModelCard) -> dict[str, Any]:
    """The result of the trial that the best net of a sweep was copied from."""
    for file in sweep.glob(f"trials/*/{RESULT}"):
        result = read_json(file)
        if result.get("sha256") == card.sha256:
            return result
    return {}


def _of_sweep(path: Path, trial: int | None) -> tuple[list[int], dict[str, str]]:
    """Numbers of the trials that can be examined, and why others cannot."""
    trials = len(read_record(path)["trials"])
    if trial is not None and not 0 <= trial < trials:
        raise UserError(f"'{path}' has no trial {trial}; it has trials 0 to {trials - 1}")
    todo, absent = [], {}
    for index in range(trials) if trial is None else [trial]:
        file = _folder(path, index) / RESULT
        result = read_json(file) if file.is_file() else {"status": "pending", "reason": "it has not ended yet"}
        if result["status"] in TRAINED or _diverged(result):
            todo.append(index)
        else:
            absent[_name(index)] = f"{result['status']}: {result['reason']}"
    return todo, absent


def _folder(sweep: Path, index: int) -> Path:
    return sweep / "trials" / f"{index:04d}"


def _name(index: int) -> str:
    return f"trial {index}"


def _diverged(result: Mapping[str, Any]) -> bool:
    return result.get("status") == "KO" and str(result.get("reason")).startswith("diverged")


def _trial(path: Path, index: int, faces: Faces) -> Training:
    trial = read_record(path)["trials"][index]
    result = read_json(_folder(path, index) / RESULT)
    if result["status"] in TRAINED:
        net, card = load_victim(_folder(path, index))
        return Training(_name(index), card, net, trial, result)
    return Training(_name(index), card_of(trial, faces.images, faces.classes), None, trial, result)


def _faces(
    path: Path,
    single: Training | None,
    data: str | None,
    label: str | None,
    classes: Sequence[str] | None,
    seed: int,
    console: Console,
) -> tuple[Faces, bool | None]:
    """The faces to examine with, of the training or of another source; whether they are others, None: not known."""
    sweep = next((folder for folder in (path, *path.parents[:2]) if (folder / CONFIG).is_file()), None)
    asked: dict[str, Any] = {"label": label, "seed": seed, "numbers": classes}
    trained_on: tuple[Any, Any] | None = None
    if sweep is not None:
        config, record = recorded(sweep)
        asked |= {"size": config.size, "classes": config.classes or None, "seed": config.data_seed}
        alike = data is None or data.partition(":")[0] == config.data.partition(":")[0]  # the same faces elsewhere?
        asked["label"] = label or (config.label if alike else None)
        trained_on = (config.data, record["data_sha256"])
    if single is not None:
        card = single.card
        asked |= {"channels": card.channels, "size": tuple(card.size)}
        if data is not None and not nameless(card.classes):  # those of the training are its classes, and in its order
            asked |= {"classes": list(card.classes), "numbers": classes or card.numbers}
        trained_on = trained_on or (card.trained.get("data"), card.trained.get("data_sha256"))
    source = data or (trained_on[0] if trained_on else None)
    if not source:
        raise UserError(
            f"'{path}' does not say what it was trained on; say on which faces to examine it: --data SOURCE"
        )
    with console.share(f"reading {source}") as on_share:
        faces = read(source, **asked, on_share=on_share)
    if data is None and trained_on and trained_on[1] not in (None, faces.sha256()):
        raise UserError(
            f"'{source}' holds other faces than '{path}' was trained on; put them back, or give --data SOURCE"
        )
    if single is not None and len(faces.classes) != len(single.card.classes):
        raise UserError(
            f"'{source}' has {len(faces.classes)} classes, the net {len(single.card.classes)}; give --data with as many"
        )
    return faces, trained_on[1] != faces.sha256() if trained_on and trained_on[1] else None


def _evidence(
    training: Training, faces: Faces, others: bool | None, quick: bool, on_share: Callable[[float], None]
) -> Evidence:
    """What is known of a training; of other faces than it had, none is compared with its history."""
    trial = training.trial
    splits = _all_as_test(faces) if others else _splits(faces, trial)
    history: Sequence[Mapping[str, Any]] = training.result.get("epochs", ())
    if others:
        history = [{name: row.get(name) for name in ("epoch", "layers")} for row in history]
    absent: dict[str, str] = {}
    known: dict[str, Any] = {"splits": splits}
    if training.net is None:
        absent |= dict.fromkeys(("layers", "inputs", "outputs"), "the training ended without a net")
    else:
        training.net.to(device_of_choice())
        known = examine(training.net, splits, on_share=lambda share: on_share(share * (1 - RATES)))
        absent |= known.pop("absent")
    if trial is None:
        absent["lr"] = "how the net was trained is not known"
    if others or quick or training.card.net not in MODELS or training.card.defence:
        why = "left out by --quick" if quick else "a net of this kind cannot be trained anew"
        absent["rates"] = "these are other faces than those of the training" if others else why
    else:
        known["rates"] = _rates(training, splits["train"], lambda share: on_share(1 - RATES + share * RATES))
    return Evidence(
        classes=tuple(faces.classes),
        history=history,
        diverged=training.result["reason"] if _diverged(training.result) else None,
        lr=None if trial is None else trial["lr"],
        strange=others is not False,
        numbers=faces.numbers,
        absent=absent,
        **known,
    )


def _rates(training: Training, train: Split, on_share: Callable[[float], None]) -> Any:
    net = training.net
    if net is None:
        net = training.card.build()
        fit(net, train.images, train.labels, epochs=0)  # no epoch: only the statistics of the first layer
    asked = {name: training.trial[name] for name in ("optimizer", "weight_decay")} if training.trial else {}
    steps = count(1)
    return range_test(net, train.images, train.labels, on_step=lambda: on_share(next(steps) / MOST_STEPS), **asked)


def _all_as_test(faces: Faces) -> dict[str, Split]:
    """Faces of which a net has learnt none."""
    rows = np.random.default_rng(0).permutation(len(faces))
    return {"test": Split(faces.images[rows], faces.labels[rows], faces.names[rows])}


def _splits(faces: Faces, trial: Mapping[str, Any] | None) -> dict[str, Split]:
    """As a sweep takes them for this trial; all of the faces where it is not known."""
    parts = {name: [(split.images, split.labels, split.names)] for name in SPLITS for split in [faces.shuffled(name)]}
    if trial and trial["refit"]:
        parts["train"] += parts.pop("validation")
    taken = {"train": trial["train_size"]} if trial else {}
    return {
        name: Split(*(np.concatenate(values)[: taken.get(name)] for values in zip(*several, strict=True)))
        for name, several in parts.items()
    }


def _record(training: Training, evidence: Evidence, diagnosis: Diagnosis) -> dict[str, Any]:
    rates = evidence.rates
    return {
        "name": training.name,
        "net": training.card.net,
        "parameters": training.trial,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "passed": diagnosis.passed,
        "not_checked": diagnosis.not_checked,
        "accuracy": {name: split.accuracy for name, split in evidence.splits.items()},
        "learning_rate": {"used": evidence.lr, "lower": rates and rates.lower, "upper": rates and rates.upper},
        "layers": [{name: _finite(value) for name, value in row.items()} for row in evidence.layers],
        "suspicious_labels": suspects(evidence.held_out)[:100],
        "contradicting_labels": contradictions(evidence)[:100],
    }


def _finite(value: Any) -> Any:
    """JSON has no word for infinity; a norm that is none is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _draw(training: Training, evidence: Evidence, out: Path, *, several: bool) -> None:
    suffix = f"-{training.name.removeprefix('trial ')}" if several else ""
    if any(row.get("layers") for row in evidence.history):
        write_bytes(out / f"weights{suffix}.png", draw_layers(evidence.history, training.name))
    if evidence.rates:
        write_bytes(out / f"rates{suffix}.png", draw_rates(evidence.rates, evidence.lr, training.name))
