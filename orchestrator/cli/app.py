"""The command `dxray`. Each verb imports what it needs when it runs, so that `--help` answers at once."""

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from textwrap import indent
from typing import TYPE_CHECKING, Any

from dxray.orchestrator.cli import retrain
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Interrupted, UserError
from dxray.orchestrator.ray import cluster
from dxray.orchestrator.runs.places import folder, must_leave_out, place
from dxray.orchestrator.sweep.grid import PARAMETERS, Grid

if TYPE_CHECKING:
    from dxray.orchestrator.runs.buckets import Place
    from dxray.orchestrator.sweep.sweep import SweepConfig

EXAMPLES = {
    "sweep": "dxray sweep --data utkface:faces/ --net densenet --filters 8 16 --dropout 0 0.1 --out runs/sweep",
    "plan": "dxray plan --preset laptop --data utkface:faces/ --address auto",
    "attack": "dxray attack faces/ --model runs/sweep --out runs/attack",
    "predict": "dxray predict face.png other.jpg --model runs/sweep",
    "verify": "dxray verify runs/attack",
    "show": "dxray show runs/attack --where 'l2 > 0.5'",
    "export": "dxray export runs/attack --where 'l2 > 0.5'",
    "compact": "dxray compact runs/attack",
    "retrain": retrain.EXAMPLE,
    "robustness": "dxray robustness runs/sweep --data utkface:faces/ --defense none jumprelu:kappa=0.1 jpeg",
    "doctor": "dxray doctor runs/sweep --trial 3",
    "demo": "dxray demo --out runs/demo",
}


DEFENCES = "jumprelu:kappa=0.1, bit_depth:bits=3 or jpeg:quality=50 (none)"
ATTACK_OPTIONS = ("norm", "effort", "eps", "steps", "queries", "weight", "lr")
MODEL = "a checkpoint, a sweep's folder (its best net), a torch.export or TorchScript file, a Hugging Face folder"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; exit code 0 on success, 1 for what the user can put right, 2 for wrong usage, 130 for Ctrl-C."""
    return guarded(lambda: _run(parser().parse_args(argv)))


def _run(options: argparse.Namespace) -> int:
    if getattr(options, "joins", False) and options.address:
        from dxray.orchestrator.ray.session import must_let_in

        must_let_in(options.address)  # asked again where it is joined; here before minutes are spent on reading faces
    return options.run(options, Console(as_json=options.json))


def guarded(run: Callable[[], int]) -> int:
    """The exit code of `run`; what a person can put right becomes a sentence on standard error."""
    try:
        with _ctrl_c():
            return run()
    except Interrupted as stopped:
        return _fail(str(stopped), 130)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # the reader of our output has gone: `dxray ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as wrong:
        return _fail(str(wrong), 1)
    except _expected() as wrong:
        return _fail(str(wrong), 1)


ORDERLY = 60.0  # seconds that the end after a Ctrl-C may take; it takes two or three


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """The first Ctrl-C ends the work in an orderly way, within `ORDERLY` seconds; the next ends it at once."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler:
        yield
        return
    asked: SimpleQueue[bool] = SimpleQueue()  # a handler may put into it, whatever it has interrupted

    def second(*_: Any) -> None:
        os._exit(_fail("stopped at once by a second Ctrl-C; what was finished before is kept", 130))

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, second)
        asked.put(True)
        raise KeyboardInterrupt

    def watch() -> None:
        if not asked.get():
            return
        time.sleep(ORDERLY)  # Ray, interrupted at a bad moment, has been seen to wait for ever
        os._exit(
            _fail(f"stopped by Ctrl-C, at once after {ORDERLY:g} s of ending; what was finished before is kept", 130)
        )

    # Started here: a handler that did may find `threading` locked by what it interrupts.
    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:  # else the process is about to end, and may be asked again
            signal.signal(signal.SIGINT, usual)
            asked.put(False)


def _expected() -> tuple[type[Exception], ...]:
    from dxray.models.data.faces import FacesError
    from dxray.models.victims.checkpoint import CheckpointError  # they load torch, which takes seconds

    return FacesError, CheckpointError


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"dxray: {sentence}\n")
    return code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="dxray",
        description="Find, save and check the small change that fools a face classifier, on a laptop or a Ray cluster.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="of dxray, torch and Python")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    _sweep_parser(_verb(verbs, "sweep", _sweep, "train a grid of nets with Ray Tune and keep the best"))
    _sweep_parser(_verb(verbs, "plan", _plan, "say what a sweep would train, where, and how long it would take"))
    _attack_parser(
        _verb(verbs, "attack", _attack, "change faces as little as fools a net; save images and an Arrow table")
    )
    _predict_parser(_verb(verbs, "predict", _predict, "say the class of images, and how sure the net is"))
    _verify_parser(_verb(verbs, "verify", _verify, "re-read every saved image of an attack and count what still fools"))
    _show_parser(_verb(verbs, "show", _show, "say what came of an attack, and draw its hardest and easiest images"))
    _export_parser(_verb(verbs, "export", _export, "write the images of an attack as PNG files, where it did not"))
    _compact_parser(_verb(verbs, "compact", _compact, "merge the many small parts of a finished attack into few"))
    made = _verb(verbs, "retrain", retrain.run, "harden a net in rounds of attack and training; take in new faces")
    _cluster_options(made, "runs/retrain", place)
    retrain.add_options(made)
    _robustness_parser(
        _verb(verbs, "robustness", _robustness, "say how much nets withstand, judged by attacks that know the defence")
    )
    _doctor_parser(_verb(verbs, "doctor", _doctor, "say what is wrong with a training, and what to do about it"))
    _demo_parser(_verb(verbs, "demo", _demo, "the whole story on synthetic faces, in a few minutes"))
    cluster.add_verbs(verbs)
    return top


def _verb(verbs: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    made = verbs.add_parser(name, help=text, description=text, epilog=f"example: {EXAMPLES[name]}")
    made.set_defaults(run=run, parser=made)
    made.add_argument("--json", action="store_true", help="one JSON object on standard output, text on standard error")
    # A sweep's seeds are a part of its grid: where none are given, a grid file may name them.
    several = {"nargs": "+"} if name in ("sweep", "plan") else {"default": 0}
    made.add_argument("--seed", type=_whole, metavar="X", help="of all that is drawn (0)", **several)
    return made


def _cluster_options(made: argparse.ArgumentParser, out: str, kind: Callable[[str], Any] = folder) -> None:
    made.add_argument("--out", type=kind, metavar="DIR", help=f"folder for the results ({out})")
    made.add_argument("--address", help="of a running Ray cluster, or 'auto'; without it a local Ray is started")
    made.set_defaults(joins=True)


def _alone_options(made: argparse.ArgumentParser, table: str) -> None:
    made.add_argument("--out", type=folder, metavar="DIR", help=f"also write the answers to DIR/{table}")
    made.add_argument("--address", help="taken so that all verbs can be called alike; this one works here, without Ray")


def _sweep_parser(made: argparse.ArgumentParser) -> None:
    _cluster_options(made, "runs/sweep", place)
    ways = made.add_mutually_exclusive_group()
    ways.add_argument("--resume", type=place, metavar="DIR", help="go on with the stopped sweep in DIR")
    ways.add_argument("--show", type=place, metavar="DIR", help="the table of the sweep in DIR, while it runs too")
    _data_options(made)
    files = made.add_mutually_exclusive_group()
    files.add_argument(
        "--preset", metavar="NAME", help="a grid that comes with dxray; values given here replace its own"
    )
    files.add_argument("--grid", type=folder, metavar="FILE", help="the same from a YAML or TOML file of your own")
    files.add_argument("--list-presets", action="store_true", help="say what each preset costs and gives")
    grid = made.add_argument_group("the grid: one or more values each")
    kinds: dict[type, Callable[[str], Any]] = {int: _whole, float: float, bool: _switch, str: str}
    for name, (kind, doc, default, _) in PARAMETERS.items():
        if name != "seed":  # every verb has that
            option = f"--{name.replace('_', '-')}"
            text = f"{doc}{': on or off' if kind is bool else ''} ({default})"
            grid.add_argument(option, nargs="+", type=kinds[kind], help=text, metavar="X")
    made.add_argument("--search", metavar="HOW", help="of the grid: grid (all of it), random or optuna (grid)")
    made.add_argument("--samples", type=_whole, metavar="N", help="nets that a random or optuna search trains")
    made.add_argument("--stop-early", action="store_true", help="stop nets that lag behind the others (ASHA)")
    made.add_argument(
        "--validate", action="append", metavar="NAME=SOURCE", help="also measure every net on these faces; repeatable"
    )
    made.add_argument("--mlflow", metavar="URI", help="also log every net to this MLflow server or sqlite:///FILE")
    made.add_argument("--cpus-per-trial", type=_whole, help="(the CPUs shared out among the nets, at least 1)")
    made.add_argument(
        "--gpus-per-trial", type=_share, help="share of a GPU for each net, or auto (1 where there is one)"
    )
    made.add_argument("--time-limit", type=float, metavar="SECONDS", help="for each net; one that takes longer is KO")
    made.add_argument("--memory-limit", type=float, metavar="GIB", help="for each net; one that needs more is KO")
    made.add_argument("--max-concurrent", type=_whole, help="nets trained at a time (as many as there are CPUs)")


def _data_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--data",
        default="synthetic",
        metavar="SOURCE",
        help="synthetic[:N] (drawn, not photographs), utkface:DIR, folder:DIR, parquet:FILE or hf:NAME_OR_DIR[:SPLIT]",
    )
    made.add_argument("--classes", help="names of the classes in the order of their labels, separated by commas")
    made.add_argument("--label", metavar="COLUMN", help="the column that holds the labels (parquet:, hf:)")
    made.add_argument("--size", type=_whole, default=48, help="height and width that images are brought to (48)")


def _attack_parser(made: argparse.ArgumentParser) -> None:
    _cluster_options(made, "runs/attack", place)
    made.add_argument(
        "paths",
        nargs="*",
        default=[],
        metavar="PATH",
        help="images, folders, patterns ('faces/*.png'), list:FILE of paths, parquet:FILE, hf:NAME, s3:// or gs://",
    )
    made.add_argument("--model", metavar="PATH", help=MODEL)
    made.add_argument("--defense", metavar="NAME[:X=VALUE,...]", help=f"put the net behind it first: {DEFENCES}")
    ways = made.add_mutually_exclusive_group()
    ways.add_argument("--resume", type=place, metavar="DIR", help="go on with the stopped run in DIR")
    ways.add_argument("--update", type=place, metavar="DIR", help="attack what is new in the places of the run in DIR")
    made.add_argument("--gpus-per-worker", type=float, help="share of a GPU for each (0.25 where there is one, else 0)")
    made.add_argument(
        "--labels", choices=("auto", "utkface", "folder", "none"), help="where true classes come from (auto)"
    )
    made.add_argument("--target", metavar="CLASS", help="the class to reach (the wrong one)")
    made.add_argument(
        "--attack",
        metavar="NAME",
        help="dx: the smallest change; dx_penalty: loss + weight * norm, by Adam; deepfool, ddn, jsma, hopskipjump: "
        "other small changes; fgsm, pgd, apgd, square, robust: within a budget (dx)",
    )
    made.add_argument("--norm", help="what is kept small: l2, linf, l1, l0 (l2)")
    made.add_argument("--effort", help="of dx: fast, default or thorough")
    made.add_argument("--eps", type=retrain.budget, help="in [0, 1] pixel units: 4/255, or 0.0157")
    made.add_argument("--queries", type=_whole, help="of square, hopskipjump and robust, for each image")
    made.add_argument("--weight", type=float, help="of the norm in dx_penalty's loss")
    made.add_argument("--steps", type=_whole, help="gradient steps an image")
    made.add_argument("--lr", type=float, help="of dx_penalty's Adam")
    made.add_argument("--name", metavar="NOM1_NOM2", help="of a single face's files: adv_nom1_nom2_mod.png")
    made.add_argument("--raw", action="store_true", help="also write .raw files: bare bytes, row by row")
    made.add_argument(
        "--png", action=argparse.BooleanOptionalAction, help="write the PNG triples (up to 10,000 images)"
    )
    made.add_argument("--strict", action="store_true", help="exit code 1 if an image could not be read")


def _predict_parser(made: argparse.ArgumentParser) -> None:
    _alone_options(made, "predictions.parquet")
    made.add_argument("images", nargs="+", metavar="IMAGE")
    made.add_argument("--model", required=True, metavar="PATH", help=MODEL)
    made.add_argument("--show", action="store_true", help="open each picture")


def _verify_parser(made: argparse.ArgumentParser) -> None:
    _alone_options(made, "verified.parquet")
    made.add_argument("run_folder", type=place, metavar="DIR", help="the folder of an attack")
    made.add_argument("--model", metavar="DIR", help="another net of the same input: do the images fool it too?")


def _show_parser(made: argparse.ArgumentParser) -> None:
    _chosen_options(made)
    made.add_argument("--count", type=_whole, default=6, metavar="N", help="hardest, easiest and slowest images (6)")
    made.add_argument("--out", type=place, metavar="FOLDER", help="for the contact sheet (DIR)")


def _export_parser(made: argparse.ArgumentParser) -> None:
    _chosen_options(made)
    made.add_argument("--out", type=place, metavar="FOLDER", help="for the triples (DIR)")


def _compact_parser(made: argparse.ArgumentParser) -> None:
    made.add_argument("run_folder", type=folder, metavar="DIR", help="the folder of a finished attack")
    for option in ("--out", "--address"):
        made.add_argument(
            option, help="taken so that all verbs can be called alike; this one works in DIR, without Ray"
        )


def _chosen_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("run_folder", type=place, metavar="DIR", help="the folder of an attack, which may still run")
    made.add_argument(
        "--where", metavar="EXPR", help="only these images: \"status == 'fooled' and (l2 > 0.5 or 'smith' in name)\""
    )
    made.add_argument("--address", help="taken so that all verbs can be called alike; this one works here, without Ray")


def _robustness_parser(made: argparse.ArgumentParser) -> None:
    made.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    made.add_argument("--data", required=True, metavar="SOURCE", help="labelled faces, as for sweep; of the test split")
    made.add_argument("--label", metavar="COLUMN", help="the column that holds the labels (parquet:, hf:)")
    made.add_argument(
        "--defense", nargs="+", metavar="NAME[:X=VALUE,...]", help=f"put each net behind each: {DEFENCES}, ..."
    )
    made.add_argument("--plain", metavar="MODEL", help="for transfer to undefended nets (the first other MODEL)")
    made.add_argument("--eps", nargs="*", type=retrain.budget, metavar="X", help="Linf budgets (2/255 4/255 8/255)")
    made.add_argument("--l2", nargs="*", type=retrain.budget, metavar="X", help="L2 budgets (0.25 0.5 1)")
    made.add_argument("--count", type=_whole, default=256, metavar="N", help="faces that are attacked (256)")
    made.add_argument("--steps", type=_whole, default=50, metavar="N", help="gradients a face, of each attack (50)")
    made.add_argument("--queries", type=_whole, default=200, metavar="N", help="answers a face, of Square (200)")
    made.add_argument("--out", type=folder, metavar="DIR", help="for the rows and the picture (runs/robustness)")
    made.add_argument("--address", help="taken so that all verbs can be called alike; this one works here, without Ray")


def _doctor_parser(made: argparse.ArgumentParser) -> None:
    made.epilog = f"{made.epilog}; exit code 1 where a fault was found, 0 where none or only notes"
    made.add_argument("path", type=folder, metavar="RUN|CHECKPOINT", help="a sweep's folder: all its nets; or one net")
    made.add_argument("--trial", type=_whole, metavar="N", help="that net of the sweep alone")
    made.add_argument("--data", metavar="SOURCE", help="faces to examine on, as for sweep (those of the training)")
    made.add_argument("--label", metavar="COLUMN", help="the column that holds the labels (parquet:, hf:)")
    made.add_argument("--quick", action="store_true", help="leave out the range test of the learning rate")
    made.add_argument("--out", type=folder, metavar="DIR", help="for the report and curves (doctor/ in that folder)")
    made.add_argument("--address", help="taken so that all verbs can be called alike; this one works here, without Ray")


def _demo_parser(made: argparse.ArgumentParser) -> None:
    _cluster_options(made, "runs/demo")


def _sweep(options: argparse.Namespace, console: Console) -> int:
    if options.list_presets:
        return _list_presets(console)
    if options.show:
        return _show_sweep(options.show, console)
    from dxray.orchestrator.sweep.sweep import resume, sweep

    if options.resume:
        free = {"resume", "address", "json"}
        must_leave_out(options, "--resume takes all else from the sweep itself", but=free)
        result = resume(options.resume, console, address=options.address)
    else:
        result = sweep(
            _sweep_config(options, console), options.out or Path("runs/sweep"), console, address=options.address
        )
    result["table"] = _show_trials(result["trials"], place(result["out"]), console)
    best = result["best_trial"]
    which = "best on the validation split"
    if best["validation_accuracy"] is None:
        which = "nothing was chosen, for the nets learnt the validation images; the first"
    console.say(f"{which}: {best['accuracy']:.2%} on the test split; saved in {result['best']}")
    # Of layers there may be hundreds of thousands of figures, which layers.parquet holds.
    brief = [{name: value for name, value in row.items() if name != "layer_columns"} for row in result["trials"]]
    console.result(result | {"trials": brief})
    return 0


def _sweep_config(options: argparse.Namespace, console: Console) -> "SweepConfig":
    from dxray.orchestrator.sweep.sweep import SweepConfig

    given = {name: value for name in PARAMETERS if (value := getattr(options, name)) is not None}
    return SweepConfig(
        data=options.data,
        size=options.size,
        classes=options.classes.split(",") if options.classes else None,
        label=options.label,
        data_seed=options.seed[0] if options.seed else 0,
        grid=_grid(options, given, console),
        search=options.search or "grid",
        samples=options.samples,
        stop_early=options.stop_early,
        validate=_named_sources(options.validate or []),
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=options.gpus_per_trial,
        max_concurrent=options.max_concurrent,
        time_limit=options.time_limit,
        memory_limit=options.memory_limit,
        mlflow=options.mlflow,
    )


def _plan(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.sweep.plan import plan

    if options.resume or options.show or options.list_presets:
        raise UserError("plan takes what a new sweep takes; leave --resume, --show and --list-presets out")
    console.result(plan(_sweep_config(options, console), console, address=options.address))
    return 0


def _named_sources(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=SOURCE`, of `--validate`."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals or not source or not re.fullmatch(r"\w+", name):
            raise UserError(f"--validate {text}: expected NAME=SOURCE with a name of letters and digits")
        if name in found:
            raise UserError(f"--validate names '{name}' twice; give each source a name of its own")
        found[name] = source
    return found


def _show_sweep(out: "Place", console: Console) -> int:
    from dxray.orchestrator.sweep.tables import read_trials

    rows = read_trials(out)
    console.result({"out": str(out), "trials": rows, "table": _show_trials(rows, out, console)})
    return 0


def _show_trials(rows: Sequence[dict[str, Any]], out: "Place", console: Console) -> str | None:
    """The table in the terminal, and as a picture; returns where that is."""
    from dxray.orchestrator.reports.heatmap import save_picture
    from dxray.orchestrator.reports.trial_table import show_table

    show_table(rows, console)
    picture = save_picture(rows, out, console)
    if picture:
        console.say(f"the same as a picture: {picture}")
    return str(picture) if picture else None


def _grid(options: argparse.Namespace, given: dict[str, Any], console: Console) -> Grid | Sequence[Grid]:
    """What the options say, over the preset or file if there is one."""
    from dxray.orchestrator.sweep.grid_files import preset, read_grid

    if not options.preset and not options.grid:
        return given
    header, grids = read_grid(preset(options.preset) if options.preset else options.grid, given)
    if options.preset:
        console.say(header)
    return grids


def _list_presets(console: Console) -> int:
    from dxray.orchestrator.sweep.grid_files import presets, read_grid

    found = {name: read_grid(file) for name, file in presets().items()}
    for name, (header, _) in found.items():
        console.say(f"{name}\n{indent(header, '  ')}\n")
    console.result({name: {"says": header, "grids": grids} for name, (header, grids) in found.items()})
    return 0


def _attack(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.attack.attack import AttackConfig, attack, resume
    from dxray.orchestrator.reports.attack_report import show_attack

    cluster = {"address": options.address, "gpus_per_worker": options.gpus_per_worker}
    if (run := options.resume or options.update) is not None:
        free = {"resume", "update", "address", "gpus_per_worker", "strict", "json"}
        must_leave_out(options, "--resume and --update take all else from the run itself", but=free)
        result = resume(run, console, update=options.update is not None, **cluster)
    else:
        if not options.model:
            raise UserError("an attack needs --model: the folder of a net, or of a sweep")
        config = AttackConfig(
            paths=options.paths,
            model=options.model,
            labels=options.labels or "auto",
            attack=options.attack or "dx",
            options={name: value for name in ATTACK_OPTIONS if (value := getattr(options, name)) is not None},
            target=options.target,
            seed=options.seed,
            png=options.png,
            raw=options.raw,
            name=options.name,
            defense=options.defense or "none",
        )
        result = attack(config, options.out or Path("runs/attack"), console, **cluster)
    show_attack(result, console)
    console.result(result)
    return 1 if options.strict and result["counts"]["unreadable"] else 0


def _one_thread() -> None:
    """For a net on one image after the other, or few: several threads would mostly wait for each other."""
    import torch

    torch.set_num_threads(1)


def _predict(options: argparse.Namespace, console: Console) -> int:
    from dxray.models.data.images import UnreadableImage
    from dxray.models.victims.predict import predict
    from dxray.orchestrator.reports.attack_report import open_picture
    from dxray.orchestrator.runs.store import writable_folder, write_records
    from dxray.orchestrator.runs.working_copy import load_net

    net, card = load_net(options.model)
    out = writable_folder(options.out, "the answers") if options.out else None
    _one_thread()
    found = []
    for image in options.images:
        row = {"image": image, "class": None, "probability": None, "error": None}
        found.append(row)
        try:
            said = predict(net, card, Path(image))
        except UnreadableImage as wrong:
            row["error"] = str(wrong)
            sys.stderr.write(f"dxray: {image}: {wrong}\n")
            continue
        row |= {"class": said.name, "probability": said.probability}
        console.say(f"{image}: {said.name} ({said.probability:.2%})")
        if options.show:
            open_picture(Path(image))
    if out:
        write_records(out / "predictions.parquet", found)
    console.result({"model": options.model, "net_sha256": card.sha256, "images": found})
    return 1 if any(row["error"] for row in found) else 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.reports.attack_report import show_verified
    from dxray.orchestrator.reports.verify import verify

    _one_thread()
    result = verify(options.run_folder, console, model=options.model, report=options.out)
    show_verified(result, console)
    console.result(result)
    return 0 if result["success"] else 1


def _show(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.reports.attack_report import show_run
    from dxray.orchestrator.reports.show import show

    result = show(options.run_folder, where=options.where, count=options.count, out=options.out)
    show_run(result, console)
    console.result(result)
    return 0


def _export(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.runs.export import export

    result = export(options.run_folder, console, where=options.where, out=options.out)
    console.say(
        f"{result['triples']:,} triples in {result['out']}: {result['written']:,} files written, "
        f"{result['kept']:,} were there already"
    )
    console.result(result)
    return 0


def _compact(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.runs.compact import compact

    result = compact(options.run_folder, console)
    console.say(f"{result['rows']:,} images, {result['parts_before']:,} parts before, {result['parts']:,} now")
    console.result(result)
    return 0


def _robustness(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.reports.robustness import RobustnessConfig, robustness, show

    budgets = {"linf": options.eps, "l2": options.l2}
    config = RobustnessConfig(
        models=options.models,
        data=options.data,
        label=options.label,
        data_seed=options.seed,
        defenses=options.defense,
        plain=options.plain,
        count=options.count,
        steps=options.steps,
        queries=options.queries,
        seed=options.seed,
        **{norm: tuple(given) for norm, given in budgets.items() if given is not None},
    )
    result = robustness(config, options.out or Path("runs/robustness"), console)
    show(result, console)
    console.result(result)
    return 0


def _doctor(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.reports.doctor import doctor, show

    _one_thread()
    asked = {name: getattr(options, name) for name in ("trial", "data", "label", "seed", "quick", "out")}
    result = doctor(options.path, console, **asked)
    show(result, console)
    console.result(result)
    return 1 if result["faults"] else 0


def _demo(options: argparse.Namespace, console: Console) -> int:
    from dxray.orchestrator.cli.demo import demo

    result = demo(options.out or Path("runs/demo"), console, seed=options.seed, address=options.address)
    console.result(result)
    return 0 if result["verified"]["success"] else 1


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


_whole.__name__ = "whole number"  # what argparse calls it: "invalid whole number value: 'x'"


def _share(text: str) -> float | str:
    return text if text == "auto" else float(text)


_share.__name__ = "number"


def _switch(text: str) -> bool:
    words = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"'{text}' is neither on nor off")
    return words[text.lower()]


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from dxray.models.victims.checkpoint import versions

        sys.stdout.write(", ".join(f"{name} {number}" for name, number in versions().items()) + "\n")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
