"""The verb `dxray attack`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from dxray.orchestrator.cli.options import (
    ATTACK,
    DATA,
    NET,
    OUTPUT,
    RESOURCES,
    RUN,
    WAYS,
    Address,
    Budget,
    Classes,
    Json,
    Label,
    Net,
    PathText,
    Place,
    Seed,
    Whole,
    class_names,
    given,
    must_leave_out,
)
from dxray.orchestrator.errors import UserError

# What decides nothing of the results, and may differ from one call to the next.
FREE = {"address", "gpus_per_worker", "workers", "strict", "json"}


@Parameter(name="*", group=ATTACK)
@dataclass(frozen=True)
class Options:
    """Of the attack; what is not given is the attack's own choice."""

    norm: Annotated[Literal["l2", "linf", "l1", "l0"] | None, Parameter(show_default="l2")] = None
    """what is kept small"""
    effort: Annotated[Literal["fast", "default", "thorough"] | None, Parameter(show_default="default")] = None
    """of dx"""
    eps: Budget | None = None
    """in [0, 1] pixel units: 4/255, or 0.0157"""
    steps: Whole | None = None
    """gradient steps an image"""
    queries: Whole | None = None
    """of square, hopskipjump and robust, for each image"""
    weight: float | None = None
    """of the norm in dx_penalty's loss"""
    lr: float | None = None
    """of dx_penalty's Adam"""


def _check(**options: Any) -> None:
    if options.keys() & {"resume", "update"}:
        reason = "--resume and --update take all else from the run itself"
        places = {"paths"}  # where its images are now
        must_leave_out(options, reason, but=FREE | places | {"resume", "update"})


verb = App(name="attack", validator=_check)


@verb.default
def attack(
    *paths: PathText,
    model: Net | None = None,
    defense: Annotated[str, Parameter(group=NET, metavar="NAME[:X=VALUE,...]")] = "none",
    labels: Annotated[Literal["auto", "utkface", "folder", "none"], Parameter(group=DATA)] = "auto",
    label: Label = None,
    classes: Classes = None,
    attack: Annotated[
        str,
        Parameter(
            group=ATTACK,
            metavar="NAME",
            help="dx: the smallest change; dx_penalty: loss + weight * norm, by Adam; deepfool, ddn, jsma, "
            "hopskipjump: other small changes; fgsm, pgd, apgd, square, robust: within a budget",
        ),
    ] = "dx",
    target: Annotated[str | None, Parameter(group=ATTACK, metavar="CLASS", show_default="any but the true one")] = None,
    options: Options = Options(),
    workers: Annotated[Literal["auto", "local", "ray"], Parameter(group=RESOURCES)] = "auto",
    gpus_per_worker: Annotated[
        float | None, Parameter(group=RESOURCES, show_default="0.25 where there is one, else 0")
    ] = None,
    png: Annotated[
        bool | None, Parameter(group=OUTPUT, negative="--no-png", show_default="up to 10,000 images")
    ] = None,
    raw: Annotated[bool, Parameter(group=OUTPUT)] = False,
    name: Annotated[str | None, Parameter(group=OUTPUT, metavar="NOM1_NOM2")] = None,
    strict: Annotated[bool, Parameter(group=OUTPUT)] = False,
    out: Place = Path("runs/attack"),
    resume: Annotated[Place | None, Parameter(group=(RUN, WAYS))] = None,
    update: Annotated[Place | None, Parameter(group=(RUN, WAYS))] = None,
    seed: Seed = 0,
    address: Address = None,
    json: Json = False,
) -> int:
    """Change faces as little as fools a net; save images and an Arrow table.

    $ dxray attack face.jpg --model runs/sweep
    $ dxray attack faces/ --model runs/sweep --norm linf --out runs/attack
    $ dxray attack --resume runs/attack

    Args:
        paths: images, folders, patterns ('faces/*.png'), list:FILE of paths, parquet:FILE, hf:NAME, s3:// or gs://
        defense: put the net behind it first: jumprelu:kappa=0.1, bit_depth:bits=3 or jpeg:quality=50
        labels: where true classes come from
        target: the class to reach
        workers: local: in this process; ray: by Ray's workers; auto: in this process where images are few
        gpus_per_worker: share of a GPU for each
        png: write the PNG triples
        raw: also write .raw files: bare bytes, row by row
        name: of a single face's files: adv_nom1_nom2_mod.png
        strict: exit code 1 if an image could not be read
        out: folder for the results
        resume: go on with the stopped run in DIR; with PATHS, where its images are now
        update: attack what is new in the places of the run in DIR, or in PATHS, if they are there now
    """
    from dxray.orchestrator.attack import attack as runs
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.reports.attack_report import show_attack

    console = Console(as_json=json)
    how: dict[str, Any] = {"address": address, "gpus_per_worker": gpus_per_worker, "workers": workers}
    if run := resume or update:
        result = runs.resume(run, console, update=update is not None, paths=paths, **how)
    else:
        if not model:
            raise UserError("an attack needs --model: the folder of a net, or of a sweep")
        config = runs.AttackConfig(
            paths=list(paths),
            model=model,
            labels=labels,
            label=label,
            classes=class_names(classes),
            attack=attack,
            options=given(options),
            target=target,
            seed=seed,
            png=png,
            raw=raw,
            name=name,
            defense=defense,
        )
        result = runs.attack(config, out, console, **how)
    show_attack(result, console)
    console.result(result)
    return 1 if strict and result["counts"]["unreadable"] else 0
