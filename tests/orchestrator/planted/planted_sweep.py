"""Sweeps with nets that go wrong. Run as a script, with its folder on PYTHONPATH."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rays import own_ray, two_nodes  # type: ignore[import-not-found]  # beside this script
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

import dxray.orchestrator.sweep.tuning
from dxray.models.nets import MODELS
from dxray.models.nets.convnet import ConvNet
from dxray.orchestrator.console import Console
from dxray.orchestrator.progress import Board
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.places import place
from dxray.orchestrator.sweep.sweep import SweepConfig, sweep
from dxray.orchestrator.sweep.trial_process import run_trial


def planted(act: Callable[[], Any]) -> type[ConvNet]:
    """A net that does it when it is trained, and not when it is only asked for its size."""

    class Planted(ConvNet):
        def forward(self, images: Tensor) -> Tensor:
            if not isinstance(images, FakeTensor):
                act()
            return super().forward(images)

    return Planted


def fail() -> None:
    raise RuntimeError("the planted fault")


def meet() -> None:
    """Go on when as many trainings as MEETING says have come here, or after a minute."""
    place = Path(os.environ["MEET"])
    (place / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(place.iterdir())) < int(os.environ["MEETING"]) and time.monotonic() < deadline:
        time.sleep(0.05)


def register() -> None:
    """In the driver and in every worker."""
    MODELS.update(
        raising=planted(fail),
        exiting=planted(lambda: os._exit(3)),
        sleeping=planted(lambda: time.sleep(600)),
        meeting=planted(meet),
    )
    if "SPY" in os.environ:
        dxray.orchestrator.sweep.tuning.run_trial = spied(run_trial)  # type: ignore[attr-defined]  # where trials look for it


def spied(train: Callable[..., Any]) -> Callable[..., Any]:
    """`run_trial` that first writes down where in memory its training images lie."""

    def run(trial: Any, data: Any, folder: Path, **limits: Any) -> Any:
        images = data["train"][0]
        address = images.__array_interface__["data"][0]
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, _, *rest = line.split(maxsplit=5)
            first, last = (int(end, 16) for end in span.split("-"))
            if first <= address < last:
                seen = {"file": rest[-1], "writeable": images.flags.writeable}
                with (Path(os.environ["SPY"]) / f"{folder.name}.json").open("w") as file:
                    json.dump(seen, file)
        return train(trial, data, folder, **limits)

    return run


def lose_a_node(config: SweepConfig, out: Place) -> None:
    """The sweep on two nodes of one CPU each, one of which dies when both are in the middle of a training."""
    epochs: dict[int, int] = {}
    with two_nodes("planted_sweep.register") as (cluster, lost):

        def kill(board: Any, key: int, row: dict[str, Any]) -> None:
            epochs[key] = row["epoch"]
            if len(epochs) == 2 and lost in cluster.worker_nodes:
                cluster.remove_node(lost, allow_graceful=False)
                print("killed in epochs", epochs, file=sys.stderr, flush=True)

        Board.epoch = kill  # type: ignore[assignment,method-assign]
        sweep(config, out, Console())


if __name__ == "__main__":
    verb, folder, asked, *rest = sys.argv[1:]
    register()
    if verb == "lose_a_node":
        lose_a_node(SweepConfig(**json.loads(asked)), place(folder))
    else:
        with own_ray("planted_sweep.register", address="local", **json.loads(rest[0] if rest else "{}")):
            sweep(SweepConfig(**json.loads(asked)), place(folder), Console())
