"""`dxray plan`: what a sweep would do, without doing it: how many trainings, how many at a time, for about how long."""

import heapq
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dxray.models.data.images import one_line
from dxray.models.nets import build
from dxray.models.training.train import fit
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.progress import spell
from dxray.orchestrator.ray.session import connected, cpus, gpus, machines
from dxray.orchestrator.sweep.describe import alike
from dxray.orchestrator.sweep.grid import of_fit, of_net
from dxray.orchestrator.sweep.sweep import SweepConfig, asked, limits_of, share_out
from dxray.orchestrator.sweep.tuning import work_of

BATCHES = 6  # trained, after two that warm up, to see how fast a node is
START = 3.0  # seconds from one training's end to the next one's first step, about


def plan(config: SweepConfig, console: Console, *, address: str | None = None) -> dict[str, Any]:
    """Say what the sweep would take on the cluster at `address`, or on this machine.

    The time is an estimate: a few batches of the trial of middling cost are trained on a node of the cluster, and all
    other trials are taken to be as fast by their multiplications.

    Returns:
        `trials`, `at_once`, `cpus_each`, `gpus_each`, `seconds` in all, and of the cheapest and dearest trial
        `seconds_least`, `seconds_most`.

    Raises:
        UserError: as `sweep.sweep`.
    """
    import ray

    todo, data, _ = asked(config, console)
    work = [work_of(trial, data) for trial in todo]
    with connected(address):
        share_out(config, todo, data)
        limits = limits_of(config, console)
        middling = todo[sorted(range(len(todo)), key=work.__getitem__)[len(todo) // 2]]
        look = ray.remote(num_cpus=limits.threads, num_gpus=limits.gpu_share, max_calls=1)(seconds_of_an_epoch)
        images, labels = data["train"]
        few = min(len(images), (2 + BATCHES) * middling["batch_size"])
        try:
            epoch = ray.get(look.remote(middling, images[:few], labels[:few], len(data["classes"]), limits.threads))
        except ray.exceptions.RayError as wrong:
            reason = one_line(getattr(wrong, "cause", None) or wrong, 300)
            raise UserError(f"the net of middling cost cannot be trained: {reason}") from None
        speed = work_of(middling, data) / (epoch * len(images) / few * middling["epochs"])
        where = f"{cpus()} CPUs and {gpus():g} GPUs (machines: {machines()})"
    seconds = [one / speed + START for one in work]
    total = makespan(seconds, limits.at_once)
    console.say(
        f"{len(todo)} nets to train on {where}: {min(limits.at_once, len(todo))} at a time, each with "
        f"{limits.threads} CPU" + (f" and {limits.gpu_share:g} GPU" if limits.gpu_share else "")
    )
    console.say(alike(todo, console.width))
    console.say(
        f"about {spell(total)} in all; the cheapest net takes about {spell(min(seconds))}, the dearest "
        f"{spell(max(seconds))} (from {few} images trained on a node just now)"
    )
    return {
        "trials": len(todo),
        "at_once": min(limits.at_once, len(todo)),
        "cpus_each": limits.threads,
        "gpus_each": limits.gpu_share,
        "seconds": total,
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
    }


def seconds_of_an_epoch(trial: Mapping[str, Any], images: Any, labels: Any, classes: int, threads: int) -> float:
    """Seconds that one epoch of `trial` over these images takes here, the first steps left out."""
    torch.set_num_threads(threads)
    net = build(trial["net"], **of_net(trial), channels=images.shape[1], size=images.shape[2:], classes=classes)
    asked_of_fit = of_fit(trial) | {"epochs": 1}
    warm = 2 * trial["batch_size"]
    fit(net, images[:warm], labels[:warm], **asked_of_fit)
    started = time.perf_counter()
    fit(net, images, labels, **asked_of_fit)
    return time.perf_counter() - started


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """When the last is done, where the longest begin first and each free place takes the next."""
    ends = [0.0] * max(1, min(at_once, len(seconds)))
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)
