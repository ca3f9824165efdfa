"""The net of one round: trained in a process of its own on a worker, from the faces and adversaries on disk.

`fit_round` is a plain function of the run's folder; Ray is in `on_a_worker` alone, which says where it runs.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dxray.attacks.fgsm import fgsm
from dxray.attacks.pgd import pgd
from dxray.defenses import defended
from dxray.defenses.adversarial_training import adversarial, collapsed, guard, parameters_of
from dxray.models.data.faces import SPLITS
from dxray.models.training.train import fit, logits_of
from dxray.models.victims.checkpoint import load, net_of_round, save
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import FULL, UserError, cannot_write
from dxray.orchestrator.hardening.new_faces import Held, held, held_in, shuffled
from dxray.orchestrator.progress import figures, now_and_then
from dxray.orchestrator.ray.session import gpus, largest_node
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.store import write_json
from dxray.orchestrator.runs.word import telling, told
from dxray.orchestrator.runs.working_copy import worked_in
from dxray.orchestrator.sweep.grid import of_fit, training_defaults
from dxray.orchestrator.sweep.trial import RESULT, STATE, reason_of
from dxray.orchestrator.sweep.trial_process import Report, Unwritable, settled, unwritable

ROUNDS = "rounds"  # the method that learns from an attack on the net before; the others are of `METHODS`
WATCHED = 512  # validation faces on which a training that attacks each batch is watched, and its epoch chosen
# How such a training goes best on UTKFace (`tests/bench/robustness.py` goes so): little turning and zooming, averaged
# weights, and for each image a budget of its own between half and all of what is asked for.
IN_EACH_BATCH: dict[str, Any] = {"augment_strength": 0.4, "ema": 0.998}
LEAST = 0.5
LOOK = 1.0  # seconds between two looks at how far a training is


@dataclass(frozen=True)
class Recipe:
    """How the net of a round comes from its parent.

    epochs: none: it is the parent, which is only measured. eps: of the methods that make their images in each batch.
    """

    parent: int
    method: str = ROUNDS
    epochs: int = 3
    lr: float = 1e-3
    batch_size: int = 64
    eps: float = 8 / 255
    from_scratch: bool = False
    held_out: int = 500
    seed: int = 0
    threads: int = 1


def on_a_worker(run: Place, number: int, recipe: Recipe, console: Console) -> dict[str, Any]:
    """What `fit_round` returns, done by a Ray task that has a GPU where there is one; how far it is, is shown.

    Args:
        run: the run's folder, absolute, or its place in a bucket.

    Raises:
        UserError: the training failed, with its reason.
    """
    import ray

    task = ray.remote(num_cpus=min(recipe.threads, largest_node()), num_gpus=1 if gpus() >= 1 else 0)(_settled)
    training = task.remote(run, number, recipe)
    does, total, unit = ("training", recipe.epochs, "epochs") if recipe.epochs else ("measuring", 1, "nets")
    with console.bar(f"{does} round {number}", total, unit) as bar:
        while not ray.wait([training], timeout=LOOK)[0]:
            if word := told(_folder(run, number)):
                bar.at(word["share"] * total, word["figures"])
        result = ray.get(training)
        bar.at(total)
    if result["status"] != "ok":
        (_folder(run, number) / RESULT).unlink(missing_ok=True)  # to be tried again, perhaps with more memory
        raise UserError(f"the net of round {number} could not be trained: {result['reason']}")
    return dict(result)


def fit_round(
    run: Path,
    number: int,
    recipe: Recipe,
    *,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_share: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Train the net of a round, save it, and measure it; a training begun in the same folder goes on.

    Args:
        on_epoch, on_share: as `fit` takes them.

    Returns:
        `train_images`, of which `adversaries`; `loss`; `validation_accuracy`; `test_accuracy`; `changed`, the share of
        validation faces that it answers otherwise than its parent; `weight_distance`, the L2 distance of all weights
        to the parent's over the length of these; `collapsed_epoch`, see `adversarial_training.collapsed`;
        `net_sha256`; `seconds`.

    Raises:
        Diverged: the loss is no finite number.
        OSError: the disk is full.
    """
    torch.set_num_threads(recipe.threads)
    parent, card = load(net_of_round(run, recipe.parent), defend=defended)
    net = copy.deepcopy(parent)
    train, validation, test = (held(run, split, card) for split in ("train", "validation", "test"))
    joined = held_in(files(run, "rounds/*/joined.parquet"), card)
    history: list[dict[str, Any]] = []
    training = training_of(recipe, number)
    if recipe.epochs:
        if recipe.from_scratch:
            torch.manual_seed(recipe.seed)
            net = card.build(defended)
        objective = training["objective"]
        history = fit(
            net,
            np.concatenate([train.images, joined.images]),
            np.concatenate([train.labels, joined.labels]),
            **of_fit(training),
            objective=adversarial(**objective) if objective else None,
            judge=_guard(recipe, validation) if objective else None,
            seed=training["seed"],
            state=_folder(run, number) / STATE,
            on_epoch=on_epoch,
            on_share=on_share,
        )
    answers, before = (logits_of(one, validation.images).argmax(1).numpy() for one in (net, parent))
    measured = {
        "train_images": len(train) + len(joined),
        "adversaries": len(joined),
        "epochs": len(history),
        "loss": history[-1]["loss"] if history else None,
        "validation_accuracy": float((answers == validation.labels).mean()),
        "test_accuracy": float((logits_of(net, test.images).argmax(1).numpy() == test.labels).mean()),
        "changed": float((answers != before).mean()),
        "weight_distance": weight_distance(net, parent),
        "collapsed_epoch": collapsed(history) if history and "strong_accuracy" in history[0] else None,
    }
    if recipe.epochs:  # else the weights are the parent's, and what is said of them stays true
        card.trained = {"round": number, "recipe": asdict(recipe), "training": training, **measured}
    saved = save(net, card, net_of_round(run, number))
    return {**measured, "net_sha256": saved.sha256, "seconds": sum(row["seconds"] for row in history)}


def weight_distance(net: nn.Module, other: nn.Module) -> float:
    """The L2 distance of all weights of two nets of one architecture, over the length of the other's."""
    pairs = [
        (a.detach().double().cpu(), b.detach().double().cpu())
        for a, b in zip(net.parameters(), other.parameters(), strict=True)
    ]
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    return (apart / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def training_of(recipe: Recipe, number: int) -> dict[str, Any]:
    """Every parameter in effect in the training of a round: `fit`'s, and its `objective`'s as `adversarial` takes them.

    The objective is None where it is the cross-entropy.
    """
    asked = {"epochs": recipe.epochs, "lr": recipe.lr, "batch_size": recipe.batch_size}
    training = training_defaults() | asked | {"seed": recipe.seed + number, "objective": None}
    if recipe.method == ROUNDS:
        # Turning and zooming draw an image anew, and would blur the change that is to be learnt from.
        return training | {"augment_strength": 0.0}
    budget = {"eps": recipe.eps, "least": LEAST, "label_smoothing": training["label_smoothing"]}
    return training | IN_EACH_BATCH | {"objective": {"method": recipe.method} | parameters_of(recipe.method) | budget}


def _guard(recipe: Recipe, validation: Held) -> Callable[[nn.Module], dict[str, float]]:
    """On validation faces that the nets are not judged on, if there are."""
    order = shuffled(validation)
    few = order[recipe.held_out :][:WATCHED] if len(order) > recipe.held_out else order[:WATCHED]
    weak = partial(fgsm, eps=recipe.eps, batch=64)
    strong = partial(pgd, eps=recipe.eps, steps=10, batch=64)
    return guard(validation.images[few], validation.labels[few], weak=weak, strong=strong)


def _folder(run: Place, number: int) -> Any:
    return net_of_round(run, number).parent / "fit"


def _settled(run: Place, number: int, recipe: Recipe) -> dict[str, Any]:
    nets = (f"rounds/{recipe.parent:04d}/net/*", f"rounds/{number:04d}/net/*", f"rounds/{number:04d}/fit/*")
    faces = (f"faces/{split}/*" for split in SPLITS)
    try:
        with (
            worked_in(run, *nets, *faces, "rounds/*/joined.parquet") as (here, keep),
            telling(_folder(run, number)) as tell,
        ):
            word = {"share": 0.0, "figures": f"epoch 1/{recipe.epochs}"}

            def heard(message: tuple[str, Any]) -> None:
                what, said = message
                if what == "share":
                    word["share"] = said
                    tell(word)
                    return
                keep()
                if what == "unwritable":
                    unwritable(said)
                word["share"] = max(word["share"], said["epoch"] / recipe.epochs)
                word["figures"] = figures(said, recipe.epochs)
                tell(word)

            return settled(partial(_work, here, number, recipe), _folder(here, number), on_message=heard)
    except (Unwritable, OSError) as wrong:
        return {"status": "KO", "reason": f"{wrong}"}


def _work(run: Path, number: int, recipe: Recipe, send: Report) -> None:
    try:
        fitted = fit_round(
            run,
            number,
            recipe,
            on_epoch=lambda row: send(("epoch", row)),
            on_share=now_and_then(lambda share: send(("share", share))),
        )
        result = {"status": "ok", "reason": None, **fitted}
    except Exception as wrong:
        if isinstance(wrong, OSError) and wrong.errno in FULL:
            send(("unwritable", str(cannot_write(run, str(wrong.strerror), "then resume"))))
            return
        result = {"status": "KO", "reason": reason_of(wrong)}
    write_json(_folder(run, number) / RESULT, result)
    (_folder(run, number) / STATE).unlink(missing_ok=True)
