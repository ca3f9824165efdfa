"""The images of a run are worked off, by this process or by Ray's workers, down to the summary of all rows."""

import math
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dxray.models.data.agreement import swapped
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.in_process import MARK, Compute, InProcess
from dxray.orchestrator.attack.sharding import FIRST, Sharding, finished, most_at_once
from dxray.orchestrator.attack.shards import STAGES, Job
from dxray.orchestrator.console import Console
from dxray.orchestrator.errors import Interrupted, UserError
from dxray.orchestrator.runs.buckets import Place, files
from dxray.orchestrator.runs.rows import CONFIG
from dxray.orchestrator.runs.store import read_rows, read_table, remove_folder, write_json
from dxray.orchestrator.runs.summary import STATUSES, answers_by_label, summarise
from dxray.orchestrator.runs.working_copy import read_net

if TYPE_CHECKING:
    from dxray.orchestrator.attack.workers import WorkerPool

FAILED = 64  # images of a run that has no other: it is not their fault


def work_off(job: Job, record: dict[str, Any], card: ModelCard, console: Console, compute: Compute) -> dict[str, Any]:
    """Attack what is left: of the last list, and of those before it where parts were deleted since.

    Args:
        record: what `attack.json` holds; it is kept up to date.

    Raises:
        UserError: net or attack fail at everything, or there are rows too few or too many.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    out, lists, listed = job.out, record["lists"], record["lists"][-1]
    asked = time.perf_counter()
    remove_folder(out / "pieces")  # of shards that will be done again
    left = _images_left(out, lists)
    with ExitStack() as stack:
        pool = _pool(job, record, left, console, compute, stack)
        if listed["workers"] is None:
            listed["workers"], listed["most"] = pool.at_once, most_at_once(math.prod((card.channels, *card.size)))
            write_json(out / CONFIG, record)  # before the first shard: its bounds must be the same on a resume
        there = finished(out)
        shardings = [
            Sharding(out, number, one, there=there) for number, one in enumerate(lists) if not one.get("compacted")
        ]
        if shardings[-1].measure():
            write_json(out / CONFIG, record)
        where = "in this process" if isinstance(pool, InProcess) else f"{pool.at_once} at a time"
        console.say(
            f"attack: {left:,} of {record['inputs']:,} images by '{job.attack}', {where}; "
            f"labels known for {sum(one['labelled'] for one in lists):,}, else the net's own answer counts as right"
        )
        started, since = time.perf_counter(), time.time()
        counts: Counter[str] = Counter()
        try:
            with pool.hired(math.ceil(left / FIRST)), console.bar("attacking", left, "images") as bar:
                for rows in pool.work_off(
                    lambda: next(filter(None, (sharding.take() for sharding in shardings)), None)
                ):
                    if shardings[-1].measure():
                        write_json(out / CONFIG, record)
                    counts += rows
                    _must_work(counts, out)
                    seconds = time.perf_counter() - started
                    bar.advance(rows.total(), f"{counts.total() / seconds:.0f} images/s, {_counted(counts)}")
        except KeyboardInterrupt:
            kept = record["inputs"] - _images_left(out, lists)  # with parts that were written as Ctrl-C came
            raise Interrupted(
                f"stopped by Ctrl-C; {kept:,} of {record['inputs']:,} images are finished and kept; "
                f"go on with: {to_resume(out)}"
            ) from None
        seconds = time.perf_counter() - started
    (out / MARK).unlink(missing_ok=True)  # a process that was killed left it, and no image does that any more
    remove_folder(out / "pieces")
    summary = whole_summary(record, out)
    write_json(out / CONFIG, record | {"counts": summary["counts"]})
    if wrong := swapped(answers_by_label(out, len(card.classes)), card.classes, record.get("numbers", ())):
        console.say(f"warning: {wrong[0]}; {wrong[1]}")
    return summary | {
        "labels_swapped": wrong and wrong[0],
        "out": str(out),
        "seconds": seconds,
        "images_per_second": left / seconds if left else None,
        "ray_seconds": None if isinstance(pool, InProcess) else started - asked,
        **_timing(out, since),
    }


def whole_summary(record: dict[str, Any], out: Place) -> dict[str, Any]:
    """The summary; UserError where it is not that of a row for each input."""
    summary = summarise(out) | {"passed_over": record.get("passed_over", {})}
    if summary["inputs"] != record["inputs"]:
        raise UserError(
            f"'{out / 'images'}' holds {summary['inputs']:,} rows for {record['inputs']:,} inputs; put its parts back "
            f"from a copy, or start a run in another folder"
        )
    return summary


def to_resume(out: Place) -> str:
    """The command by which the run goes on."""
    return f"dxray attack --resume '{out}'"


def _images_left(out: Place, lists: list[dict[str, Any]]) -> int:
    there = finished(out)
    return sum(
        one["inputs"] if one["workers"] is None else Sharding(out, number, one, there=there).left
        for number, one in enumerate(lists)
        if not one.get("compacted")
    )


def _pool(
    job: Job, record: dict[str, Any], images: int, console: Console, compute: Compute, stack: ExitStack
) -> "InProcess | WorkerPool":
    """What is to work them off; Ray is connected, where it is needed, until the stack is closed."""
    net = read_net(job.out / "model")

    def of_ray() -> "WorkerPool":
        from dxray.orchestrator.attack.workers import WorkerPool  # Ray, which takes seconds, where it is needed
        from dxray.orchestrator.ray.session import gpus
        from dxray.orchestrator.ray.shared_storage import joined

        stack.enter_context(joined(job.out, compute.address))
        share = (0.25 if gpus() else 0.0) if compute.gpus_per_worker is None else compute.gpus_per_worker
        return WorkerPool(job, net, net_sha256=record["net_sha256"], gpu_share=share, say=console.say)

    def others(left: int) -> "WorkerPool":
        pool = of_ray()
        stack.enter_context(pool.hired(math.ceil(left / FIRST)))
        return pool

    if compute.in_process(job.out, images, console.say):
        return InProcess(
            job, net, images=images, others=None if compute.workers == "local" else others, say=console.say
        )
    return of_ray()


def _must_work(counts: Counter[str], out: Place) -> None:
    """UserError where attack or net fail at everything: that is no fault of the images."""
    if counts["failed"] >= FAILED and counts["failed"] + counts["unreadable"] == counts.total():
        reason = next(row["reason"] for row in read_rows(out, ["status", "reason"]) if row["status"] == "failed")
        raise UserError(f"all of the first {counts['failed']:,} images failed, as in: {reason}; see to net and options")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])


def _timing(out: Place, since: float) -> dict[str, Any]:
    """Of the shards begun `since` then: how long the first took to begin, and seconds of all workers at each stage."""
    began, stages = [], dict.fromkeys(STAGES, 0.0)
    for file in files(out / "timing", "part-*.parquet"):
        row = read_table(file).to_pylist()[0]
        if row["began"] >= since:
            began.append(row["began"])
            stages = {stage: seconds + row[f"{stage}_s"] for stage, seconds in stages.items()}
    return {"workers_seconds": min(began) - since if began else None, "stages": stages}
