"""One trial of a sweep: train one net, measure it, write down what came of it. Plain functions; Ray is not needed.

A trial's folder is its memory: `state.safetensors` while it trains (a killed trial goes on from its last epoch),
`result.json` once it has ended, well or not, and the net beside it. A trial with a result is never done again.
"""

import json
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dxray.defenses import TAUGHT, defended, parse
from dxray.defenses.judging import judged
from dxray.models.data.agreement import counted, surely_below_chance
from dxray.models.data.batches import device_of
from dxray.models.data.images import one_line
from dxray.models.doctor.diagnosis import cheap_findings
from dxray.models.doctor.evidence import Evidence, Split
from dxray.models.training.cost import training_bytes
from dxray.models.training.state import load_judged
from dxray.models.training.train import Diverged, device_of_choice, evaluate, fit, has_fast_bf16, logits_of
from dxray.models.victims.checkpoint import ModelCard, save
from dxray.models.victims.predict import answers_of
from dxray.orchestrator.errors import DISK
from dxray.orchestrator.ray.limits import GIB, Peak, bounded_memory
from dxray.orchestrator.runs.store import read_json, write_json
from dxray.orchestrator.runs.word import WORD
from dxray.orchestrator.sweep.grid import auxiliary_of, of_fit, of_net

RESULT, STATE = "result.json", "state.safetensors"
TAUGHT_STATE = "defence.safetensors"  # of a defence that learns, as STATE
ATTACKED, WITHIN = 256, ("linf", 4 / 255)  # test faces on which a net is attacked, where it is; the budget


class DoesNotFit(MemoryError):
    """A training that is known to need more memory than allowed before it is begun."""


def train_trial(
    trial: Mapping[str, Any],
    data: Mapping[str, Any],
    folder: Path,
    *,
    threads: int = 1,
    memory_limit: float | None = None,
    gpu_share: float = 1.0,
    least: MutableMapping[str, int] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_share: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """The result of a trial: from its folder where it has ended before, else after training it.

    A training that fails is a result too: `status` "KO" with its `reason`.

    Args:
        trial: the parameters, all of them, see `grid.complete`.
        data: `train`, `validation`, `test` (images uint8 `(N, C, H, W)`, labels int64 `(N,)`), `classes`, `source`,
            `sha256`, and perhaps `auxiliary`: further labels of the training images, then of the validation images, by
            name, see `training.auxiliary`; `validate`: further such pairs by name, on which the net is measured at its
            end; `attacked`: whether it is attacked then, too; and `findings`: what is wrong with the data, see
            `diagnosis.data_findings`.
        folder: of this trial alone.
        memory_limit, gpu_share: GiB that the training may take, see `limits.bounded_memory`.
        least: bytes that trainings are known to need at least; what is found out here is added.
        on_epoch, on_share: as `fit` takes them.

    Raises:
        OSError: the disk of `folder` is full or read-only; there is no result then.
    """
    if (folder / RESULT).exists():
        return read_json(folder / RESULT)
    _sweep_out(folder)
    torch.set_num_threads(threads)  # Ray tells the limit by OMP_NUM_THREADS, which torch read before it was set
    peak = Peak()
    allowed: float | None = None
    try:
        with bounded_memory(memory_limit, gpu_share=gpu_share) as allowed:
            result = _train(trial, data, folder, allowed, {} if least is None else least, on_epoch, on_share)
    except Exception as wrong:
        if isinstance(wrong, OSError) and wrong.errno in DISK:
            raise  # it is done again once there is room
        result = {"status": "KO", "reason": reason_of(wrong, allowed)}
    return _end(folder, result | {"memory_gib": peak.gib(), "host": socket.gethostname()})


def measure_stopped(trial: Mapping[str, Any], data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result of a trial that was stopped early, after its last whole epoch: its net is saved, measured on all."""
    if (folder / RESULT).exists():
        return read_json(folder / RESULT)
    _sweep_out(folder)
    data = _as_used(trial, data)
    card = card_of(trial, data["train"][0], data["classes"])
    net = card.build()
    history = load_judged(folder / STATE, net)
    net.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # missing in torch's stubs
    done = f"stopped early, after epoch {len(history)} of {trial['epochs']}"
    return _end(folder, {"status": "stopped", "reason": done, **_measured(net, card, trial, data, history, folder)})


def _train(
    trial: Mapping[str, Any],
    data: Mapping[str, Any],
    folder: Path,
    allowed: float | None,
    least: MutableMapping[str, int],
    on_epoch: Callable[[dict[str, Any]], None] | None,
    on_share: Callable[[float], None] | None,
) -> dict[str, Any]:
    data = _as_used(trial, data)
    images, labels = data["train"]
    card = card_of(trial, images, data["classes"])
    if allowed:
        _must_fit(card, images, trial, allowed, least)
    torch.manual_seed(trial["seed"])
    net = card.build()
    history = fit(
        net,
        images,
        labels,
        validation=None if trial["refit"] else data["validation"],
        seed=trial["seed"],
        state=folder / STATE,
        auxiliary={
            name: told[: len(images)] for name, told in data.get("auxiliary", {}).items() if name in auxiliary_of(trial)
        },
        on_epoch=on_epoch,
        on_share=on_share,
        **of_fit(trial),
    )
    return {"status": "ok", "reason": None, **_measured(net, card, trial, data, history, folder)}


def _must_fit(
    card: ModelCard,
    images: np.ndarray,
    trial: Mapping[str, Any],
    allowed: float,
    least: MutableMapping[str, int],
) -> None:
    """DoesNotFit where the training surely takes more than `allowed` GiB."""
    shape = (min(trial["batch_size"], len(images)), *images.shape[1:])
    training = json.dumps([card.net, card.parameters, len(card.classes), shape, trial["optimizer"]])
    if training not in least:
        device = device_of_choice()
        least[training] = training_bytes(
            card.build, shape, optimizer=trial["optimizer"], device=device.type, bfloat16=has_fast_bf16(device)
        )
    needed = least[training]
    if needed > allowed * GIB:
        raise DoesNotFit(f"it needs at least {needed / GIB:.3g} GiB, and {allowed:.3g} GiB are allowed; not begun")


def _measured(
    net: nn.Module,
    card: ModelCard,
    trial: Mapping[str, Any],
    data: Mapping[str, Any],
    history: Sequence[dict[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """What is said of a trained net behind its defence, which is saved to `folder`."""
    plain, net = net, _defended(net, card, trial, data, folder)
    last = history[-1] | _of_validation(net, card, trial, data)
    labels = data["test"][1]
    logits = logits_of(net, data["test"][0]).numpy()
    answers = logits.argmax(1)
    validate, classes = data.get("validate", {}), len(card.classes)
    said = {name: answers_of(net, images) for name, (images, _) in validate.items()}
    measured = {
        "accuracy": float((answers == labels).mean()),
        **{name: last.get(name) for name in ("validation_accuracy", "validation_loss", "train_accuracy", "loss")},
        **(_withstood(plain, net, data) if data.get("attacked") else {}),
        "majority_share": float(np.bincount(labels).max() / len(labels)),
        "largest_answer_share": float(np.bincount(answers).max() / len(answers)),
        "parameter_count": sum(p.numel() for p in net.parameters()),
        "train_images": len(data["train"][0]),
        "validate": {name: float((said[name] == true).mean()) for name, (_, true) in validate.items()},
        "swapped": [
            name for name, (_, true) in validate.items() if surely_below_chance(counted(true, said[name], classes))
        ],
    }
    card.trained = {"trial": dict(trial), "data": data["source"], "data_sha256": data["sha256"], **measured}
    saved = save(net, card, folder)
    return {
        **measured,
        "findings": _findings(trial, data, history, logits),
        "sha256": saved.sha256,
        "seconds": sum(row["seconds"] for row in history),
        "epochs": history,
    }


def _defended(
    net: nn.Module, card: ModelCard, trial: Mapping[str, Any], data: Mapping[str, Any], folder: Path
) -> nn.Module:
    """The trained net behind the defence of its trial, as the card then says; without one, the net."""
    card.defence = parse(trial["defense"], channels=card.channels)
    if not card.defence:
        return net
    name = card.defence["name"]
    torch.manual_seed(trial["seed"])
    found = defended(net, name, **card.defence["parameters"]).to(device_of(net))
    if name in TAUGHT:
        TAUGHT[name](found, *data["train"], seed=trial["seed"], state=folder / TAUGHT_STATE)
    return found


def _of_validation(
    net: nn.Module, card: ModelCard, trial: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, float]:
    """Of a defended net, figures on the validation split: those of its training are of the net without the defence."""
    if not card.defence or trial["refit"]:
        return {}
    return {f"validation_{name}": value for name, value in evaluate(net, *data["validation"]).items()}


def _withstood(plain: nn.Module, net: nn.Module, data: Mapping[str, Any]) -> dict[str, float]:
    """The accuracy after an attack made for the net without its defence, and after one made for the defended net."""
    images, labels = (part[:ATTACKED] for part in data["test"])
    _, found = judged(net, images, labels, plain=plain, budgets=[WITHIN], steps=20, queries=0)
    adaptive = found["white_box"]
    return {"robust_naive": adaptive if net is plain else found["transfer"], "robust_adaptive": adaptive}


def _findings(
    trial: Mapping[str, Any], data: Mapping[str, Any], history: Sequence[dict[str, Any]], logits: np.ndarray
) -> list[str]:
    """Names of what is wrong with the training, as far as it shows without a further look at the net."""
    images, labels = data["test"]
    splits = {"train": Split(*data["train"]), "test": Split(images, labels, logits=logits)}
    return cheap_findings(Evidence(data["classes"], splits, history=history), of_data=data.get("findings", ()))


def card_of(trial: Mapping[str, Any], images: np.ndarray, classes: Sequence[str]) -> ModelCard:
    """The card of the net that a trial trains on `images` `(N, C, H, W)`."""
    _, channels, height, width = images.shape
    return ModelCard(trial["net"], of_net(trial), tuple(classes), channels, (height, width))


def _as_used(trial: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with what the trial learns as its `train`."""
    learnt = data["train"]
    if trial["refit"]:
        learnt = [np.concatenate(both) for both in zip(data["train"], data["validation"], strict=True)]
    return {**data, "train": tuple(part[: trial["train_size"]] for part in learnt)}


def reason_of(wrong: Exception, allowed: float | None = None) -> str:
    """Why a training failed, for people; `allowed`: the GiB that it might take."""
    text = one_line(wrong)
    if isinstance(wrong, Diverged):
        return f"diverged: {text}"
    if isinstance(wrong, DoesNotFit):
        return f"out of memory: {text}"
    short_of_memory = ["can't allocate memory", "bad_alloc", "out of memory", "could not create a memory"]
    if allowed:  # so oneDNN has it where it gets no memory for its code; but it may have had other reasons
        short_of_memory.append("could not create a primitive")
    if isinstance(wrong, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in short_of_memory):
        return "out of memory" + (f": it needs more than the {allowed:.3g} GiB allowed" if allowed else "")
    return f"failed: {text}"


def _end(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    write_json(folder / RESULT, result)
    for state in (STATE, TAUGHT_STATE, WORD):  # of a worker that was killed its word is left too
        (folder / state).unlink(missing_ok=True)
    return result


def _sweep_out(folder: Path) -> None:
    """Remove what processes that were killed had half written."""
    for partial in folder.glob(".*"):
        if partial.name != ".lock":
            partial.unlink(missing_ok=True)
