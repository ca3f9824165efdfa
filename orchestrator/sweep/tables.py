"""What a sweep leaves on disk: its record, and a table of its trials, of their epochs, and of the layers in each."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import column, read_json, read_table, write_table
from dxray.orchestrator.sweep.grid import NET_PARAMETERS, PARAMETERS, UNLIMITED, Parameter

FORMAT = "dxray sweep 2"
CONFIG = "sweep.json"  # what was asked, and the trials that follow from it

Row = Mapping[str, Any]

TRAINED = ("ok", "stopped")  # the status of a trial that has a net; else it is "KO", or "pending": not ended yet
ON = "accuracy_"  # begins the column of the faces that --validate gives a name

_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
_SHARE, _LOSS = "[0, 1]", "nats"
_LEFT = "of test faces, after APGD of 20 steps at Linf 4/255 on"
_TRIAL = column("trial", pa.int32(), "number of the trial, whose folder is trials/NNNN")
_EPOCH = column("epoch", pa.int32(), "from 1")


def _parameter(name: str, parameter: Parameter) -> pa.Field:
    null = "the net has no such parameter" if name in NET_PARAMETERS else UNLIMITED.get(name)
    return column(name, _ARROW[parameter.kind], parameter.doc + (f"; null: {null}" if null else ""))


TRIALS = pa.schema(
    [
        _TRIAL,
        *(_parameter(name, parameter) for name, parameter in PARAMETERS.items()),
        column("status", pa.string(), "ok, stopped (early; measured as it was then) or KO"),
        column("reason", pa.string(), "why the trial is KO or was stopped"),
        column("mark", pa.string(), "one class: 99 % of the answers are alike; under majority: worse than that"),
        column("accuracy", pa.float64(), "on the test split, which decided nothing", _SHARE),
        column(
            "validation_accuracy",
            pa.float64(),
            "on the validation split, by which the best net is chosen; null: `refit`",
            _SHARE,
        ),
        column("validation_loss", pa.float64(), "cross entropy on the validation split; null: `refit`", _LOSS),
        column("train_accuracy", pa.float64(), "of the last epoch, on augmented images, while learning", _SHARE),
        column("loss", pa.float64(), "of the last epoch, on augmented images, labels smoothed", _LOSS),
        column("robust_naive", pa.float64(), f"{_LEFT} the net without its defence", _SHARE),
        column("robust_adaptive", pa.float64(), f"{_LEFT} the defended net; null: the grid names no `defense`", _SHARE),
        column("majority_share", pa.float64(), "share of the larger class in the test split", _SHARE),
        column("largest_answer_share", pa.float64(), "share of the answer most often given there", _SHARE),
        column("parameter_count", pa.int64(), "weights of the net"),
        column("train_images", pa.int64(), "training images used", "images"),
        column("findings", pa.list_(pa.string()), "what is wrong with the training; null: it was not examined"),
        column("sha256", pa.string(), "of the net: architecture and weights"),
    ]
)
EPOCHS = pa.schema(
    [
        _TRIAL,
        _EPOCH,
        column("loss", pa.float64(), "mean over the epoch, on augmented images, labels smoothed", _LOSS),
        column("train_accuracy", pa.float64(), "on augmented images, while learning", _SHARE),
        column("validation_loss", pa.float64(), "cross entropy on the validation split after the epoch", _LOSS),
        column("validation_accuracy", pa.float64(), "on the validation split after the epoch", _SHARE),
    ]
)
LAYERS = pa.schema(
    [
        _TRIAL,
        _EPOCH,
        column("layer", pa.string(), "name of the layer in the net"),
        column("weight_norm", pa.float64(), "L2 norm of its weights after the epoch"),
        column("gradient_norm", pa.float64(), "L2 norm of the gradient of the loss by them"),
        column("dead_share", pa.float64(), "units that answer 0 to every image; null: no ReLU follows", _SHARE),
    ]
)
# What differs from run to run has a file of its own, so that the tables of two runs can be compared.
TIMING = pa.schema(
    [
        _TRIAL,
        column("seconds", pa.float64(), "of its epochs' steps, without validation and layer figures", "s"),
        column("images_per_second", pa.float64(), "training images seen, by those seconds", "images/s"),
        column("memory_gib", pa.float64(), "most memory that the training held", "GiB"),
        column("host", pa.string(), "name of the machine that trained it"),
    ]
)


def trial_row(index: int, trial: Row, result: Row) -> dict[str, Any]:
    """A row of `TRIALS`, with what the other tables hold of the trial beside its columns.

    These are `seconds`, `memory_gib`, `epoch_rows` (dicts) and `layer_columns` (lists by name: of a deep
    net they are thousands).
    """
    epochs = result.get("epochs", [])
    layers = [{"epoch": epoch["epoch"], **layer} for epoch in epochs for layer in epoch.get("layers", ())]
    return {
        "trial": index,
        **{name: trial.get(name) for name in PARAMETERS},
        **{name: value for name, value in result.items() if name not in ("epochs", "validate")},
        **{f"{ON}{name}": share for name, share in result.get("validate", {}).items()},
        "mark": _mark(result),
        "epoch_rows": [{name: value for name, value in epoch.items() if name != "layers"} for epoch in epochs],
        "layer_columns": {name: [layer.get(name) for layer in layers] for name in LAYERS.names if name != "trial"},
    }


def pending_row(index: int, trial: Row) -> dict[str, Any]:
    """The row of a trial that has not ended."""
    return {"trial": index, **{name: trial.get(name) for name in PARAMETERS}, "status": "pending", "mark": None}


def _mark(result: Row) -> str | None:
    """What an accuracy alone would hide: a net that gives one answer to nearly everything, or does worse than that."""
    if result["status"] not in TRAINED:
        return None
    if result["largest_answer_share"] >= 0.99:
        return "one class"
    if result["accuracy"] < result["majority_share"]:
        return "under majority"
    return None


def write_tables(out: Place, rows: Sequence[Row]) -> None:
    """`trials.parquet`, `epochs.parquet`, `timing.parquet` and, where layers were looked at, `layers.parquet` in `out`.

    All are written anew each time, which a sweep does as each trial ends: 0.1 s for 210 trials of 40 epochs.
    """
    fields = [
        column(name, pa.float64(), f"on the faces '{name.removeprefix(ON)}' of --validate", _SHARE)
        for name in measured_on(rows)
    ]
    write_table(out / "trials.parquet", _table(rows, pa.schema([*TRIALS, *fields])))
    epochs = [{"trial": row["trial"], **epoch} for row in rows for epoch in row["epoch_rows"]]
    write_table(out / "epochs.parquet", _table(epochs, EPOCHS))
    write_table(out / "timing.parquet", _table([_timing(row) for row in rows], TIMING))
    layers = [_layers(row) for row in rows if row["layer_columns"]["epoch"]]
    if layers:
        write_table(out / "layers.parquet", pa.concat_tables(layers))


def measured_on(rows: Sequence[Row]) -> list[str]:
    """The columns `accuracy_NAME` of the faces of `--validate`."""
    return sorted({name for row in rows for name in row if name.startswith(ON)})


def _timing(row: Row) -> dict[str, Any]:
    seen = row["train_images"] * len(row["epoch_rows"]) if row["status"] in TRAINED else None
    speed = seen / row["seconds"] if seen and row.get("seconds") else None
    return {name: row.get(name) for name in TIMING.names} | {"images_per_second": speed}


def _layers(row: Row) -> pa.Table:
    columns = row["layer_columns"]
    return pa.table({"trial": [row["trial"]] * len(columns["epoch"]), **columns}, schema=LAYERS)


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in schema.names}, schema=schema)


def read_record(out: Place) -> dict[str, Any]:
    """What `sweep.json` says; UserError where `out` holds no sweep, or one of another format."""
    record = read_json(out / CONFIG)
    if record.get("format") != FORMAT:
        raise UserError(f"{out / CONFIG} is of another format than '{FORMAT}'; start the sweep anew in another folder")
    return record


def read_trials(out: Place) -> list[dict[str, Any]]:
    """The rows that the sweep in `out` has written so far, without epochs; trials that have not ended are pending.

    Raises:
        UserError: as `read_record`.
    """
    found = {index: pending_row(index, trial) for index, trial in enumerate(read_record(out)["trials"])}
    for file in ("trials.parquet", "timing.parquet"):
        if (out / file).exists():
            for row in read_table(out / file).to_pylist():
                found.setdefault(row["trial"], {}).update(row)
    return [found[index] for index in sorted(found)]


def best_of(rows: Sequence[Row]) -> Row | None:
    """The row with the highest validation accuracy, the first of equals; None where nothing was trained.

    Nets that learnt the validation images come after all others.
    """
    trained = [row for row in rows if row["status"] in TRAINED and row.get("sha256")]
    return max(trained, key=lambda row: (row["validation_accuracy"] or 0.0, -row["trial"]), default=None)
