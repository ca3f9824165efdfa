"""What a person reads of a retraining: its rounds as a table."""

from typing import Any

from dxray.orchestrator.console import Console


def show_rounds(result: dict[str, Any], console: Console) -> None:
    """A line for each round, in percent.

    Args:
        result: as `hardening.retrain.retrain` returns it.
    """
    columns = {
        "generation": "gen.",
        "round": "round",
        "attacked": "attacked",
        "fooled": "joined",
        "train_images": "learnt from",
        "validation_accuracy": "clean",
        "robust_accuracy": "robust",
        "fooled_within": "fooled within",
        "changed": "changed",
        "weight_distance": "weights moved",
    }
    rows = result["rounds"]
    if not rows:
        return
    first = rows[0]
    console.table(
        f"judged on {first['held_out']:,} validation faces: robust: right after apgd and square at Linf "
        f"{first['eps'] * 255:g}/255; fooled within: by dx in L2 {first['within']:g}, of those it had right",
        ["", *columns.values()],
        [["*" if row["round"] == result["current"] else "", *(_cell(row[name]) for name in columns)] for row in rows],
    )
    console.say(f"* in use: {result['out']}/current; any other: --model '{result['out']}#round=N'")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}"
    return "-" if value is None else f"{value:,}"
