"""A run in MLflow for each trial that has ended: its parameters, a metric per epoch, its measures and its state."""

import os
from collections.abc import Mapping
from typing import Any

from dxray.models.data.images import one_line
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.sweep.describe import in_effect
from dxray.orchestrator.sweep.tables import measured_on

# A server that does not answer must not hold up the trainings; MLflow would try for minutes.
_SOON = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}

_EPOCH = ("loss", "train_accuracy", "validation_loss", "validation_accuracy")
_END = ("accuracy", "majority_share", "largest_answer_share", "parameter_count", "seconds", "memory_gib")


class MlflowLog:
    """Writes to the tracking server, or the local store, at `uri`, under an experiment called after the sweep's folder.

    Raises:
        UserError: MLflow is not installed, or nothing answers at `uri`.
    """

    def __init__(self, uri: str, out: Place, console: Console) -> None:
        for name, value in _SOON.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError:
            raise UserError("--mlflow needs the package MLflow; install it with: pip install 'dxray[mlflow]'") from None
        self._sweep, self._console, self._broken = str(out), console, False
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(out.name)
            self._experiment = found.experiment_id if found else self._client.create_experiment(out.name)
        except Exception as wrong:
            raise UserError(f"MLflow at '{uri}' cannot be used ({one_line(wrong, 200)}); check the address") from None

    def add(self, row: Mapping[str, Any]) -> None:
        """Log an ended trial. MLflow failing later on is said once and stops nothing: the tables hold it all."""
        if self._broken:
            return
        try:
            self._add(row)
        except Exception as wrong:
            self._broken = True
            self._console.say(
                f"MLflow takes no more of this sweep ({one_line(wrong, 200)}); the Parquet tables hold all of it"
            )

    def _add(self, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        tags = {"dxray.sweep": self._sweep, "dxray.status": row["status"], "dxray.reason": row["reason"] or ""}
        run = self._client.create_run(self._experiment, tags=tags, run_name=f"trial {row['trial']:04d}")
        name = run.info.run_id
        now = run.info.start_time
        values = [(key, row[key], 0) for key in _END if row.get(key) is not None]
        values += [(name, row[name], 0) for name in measured_on([row]) if row[name] is not None]
        values += [(key, epoch[key], epoch["epoch"]) for epoch in row["epoch_rows"] for key in _EPOCH if key in epoch]
        metrics = [Metric(key, float(value), now, step) for key, value, step in values]
        params = [Param(key, str(value)) for key, value in in_effect(row).items()]
        for i in range(0, max(1, len(metrics)), 1000):  # the most that a server takes at a time
            self._client.log_batch(name, metrics=metrics[i : i + 1000], params=params if i == 0 else [])
        self._client.set_terminated(name, "FAILED" if row["status"] == "KO" else "FINISHED")
