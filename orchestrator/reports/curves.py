"""Pictures of a training, its layers over the epochs and the range test of its learning rate; curves of robustness."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dxray.models.doctor.lr_range_test import RateRange

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_layers(history: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG: of each layer, the norm of its weights after each epoch, and the gradient as a share of it.

    The first layers are dark, the last ones light.
    """
    figure, (norms, gradients) = _figure(2, title)
    epochs = [row for row in history if row.get("layers")]
    names = [layer["layer"] for layer in epochs[0]["layers"]]
    for i, name in enumerate(names):
        of_layer = [layer for row in epochs for layer in row["layers"] if layer["layer"] == name]
        style = {"color": _shade(i, len(names)), "label": name, "marker": ".", "linewidth": 1}
        at = [row["epoch"] for row in epochs][: len(of_layer)]
        norms.plot(at, [layer["weight_norm"] for layer in of_layer], **style)
        shares = [layer["gradient_norm"] / max(layer["weight_norm"], 1e-30) for layer in of_layer]
        gradients.plot(at, [share if share > 0 else float("nan") for share in shares], **style)
    norms.set(xlabel="epoch", title="norm of the weights", ylim=(0, None))
    gradients.set(xlabel="epoch", title="gradient over weight", yscale="log")
    for axes in (norms, gradients):
        axes.xaxis.get_major_locator().set_params(integer=True)
    step = -(-len(names) // 20)
    lines = norms.get_lines()[::step]
    figure.legend(lines, names[::step], loc="outside right center", fontsize=6)
    return _png(figure)


def draw_rates(rates: RateRange, lr: float | None, title: str) -> bytes:
    """A PNG: the loss while the learning rate rises, the usable band, and the rate that the training had."""
    figure, (axes,) = _figure(1, title)
    axes.plot(rates.rates, rates.losses, color="black", linewidth=1)
    if rates.lower is not None and rates.upper is not None:
        axes.axvspan(rates.lower, rates.upper, color="tab:green", alpha=0.2, label="usable")
    if lr is not None:
        axes.axvline(lr, color="tab:red", label=f"used: {lr:g}")
    axes.set(xlabel="learning rate", ylabel="loss", xscale="log", title="range test of the learning rate")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    return _png(figure)


def draw_robustness(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG: for each norm, the accuracy that is left to each net over the budget, with its 95 % interval.

    Args:
        rows: as `robustness.robustness` gives them.
    """
    norms = list(dict.fromkeys(row["norm"] for row in rows if row["norm"]))
    nets = list(dict.fromkeys((row["model"], row["defense"]) for row in rows))
    figure, panels = _figure(len(norms), f"right after all attacks, of {rows[0]['n']:,} test faces")
    for axes, norm in zip(panels, norms, strict=True):
        for i, (model, defense) in enumerate(nets):
            own = [row for row in rows if (row["model"], row["defense"]) == (model, defense)]
            curve = [row for row in own if row["norm"] in ("", norm)]
            at = [row["eps"] * (255 if norm == "linf" else 1) for row in curve]
            masked = ", masked" if any(row["masked"] for row in own) else ""
            name = f"{model}{'' if defense == 'none' else f', {defense}'}{masked}"
            colour = _shade(i, len(nets) + 1)
            axes.plot(at, [row["robust_accuracy"] for row in curve], marker=".", color=colour, label=name)
            axes.fill_between(
                at, [row["low"] for row in curve], [row["high"] for row in curve], color=colour, alpha=0.15, linewidth=0
            )
        axes.axhline(rows[0]["majority"], color="black", linestyle=":", linewidth=1, label="one answer for all")
        axes.set(xlabel=f"{norm}{', grey levels of 255' if norm == 'linf' else ''}", ylim=(0, 1), title=norm)
    panels[0].legend(fontsize=6)
    return _png(figure)


def _figure(panels: int, title: str) -> tuple["Figure", Any]:
    # Imported here: a second that only a picture needs. `Figure` alone: pyplot keeps figures and a backend globally.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 4 * panels, 4), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=9)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _shade(at: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](at / max(1, count - 1))


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
