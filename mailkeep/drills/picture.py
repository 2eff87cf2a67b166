"""A picture of attack drills: messages out over time, and the moments that ended the attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mailkeep.drills.result import DrillResult, format_seconds

TRIED, OUT, LIMIT, FREEZE, ALERT, INNOCENT, INK = (
    *("#9aa5b1", "#c81e3a", "#d98200", "#1f5fbf", "#7a3fb0", "#2b8a57", "#2f3742"),
)
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#c4ccd6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "mailkeep",  # equal pictures are equal files
}
WIDTH, HEIGHT = 6.4, 3.6  # of a drill, in inches


def draw_results(results: Sequence[DrillResult], to: Path) -> list[Path]:
    """Draw these drills as `to`.svg and `to`.png. Returns both paths."""
    columns = min(len(results), 2)
    rows = -(-len(results) // columns)
    with rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=(columns * WIDTH * (1.4 if columns == 1 else 1), rows * HEIGHT), layout="constrained")
        panels = figure.subplots(
            2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [6, 1] * rows, "hspace": 0.02}
        )
        for number in range(rows * columns):
            row, column = divmod(number, columns)
            above, below = panels[2 * row][column], panels[2 * row + 1][column]
            if number < len(results):
                _draw_panel(above, below, results[number])
            else:
                above.set_axis_off()
                below.set_axis_off()
        to.parent.mkdir(parents=True, exist_ok=True)
        svg, png = to.with_suffix(".svg"), to.with_suffix(".png")
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=160)
    return [svg, png]


def _draw_panel(above: Axes, below: Axes, result: DrillResult) -> None:
    end = max((*result.tried_at, *result.innocents_at, *_moments_by_name(result).values(), 1.0)) * 1.02
    highest = max(result.tries, 1)
    _draw_steps(above, result.tried_at, end, color=TRIED, label="tried")
    _draw_steps(above, result.out_at, end, color=OUT, label="out", linewidth=2.2)
    above.annotate(f"{result.tries} tried", (end, result.tries), (4, 0), **_END_LABEL, color=TRIED)
    above.annotate(f"{result.messages} out", (end, result.messages), (4, 0), **_END_LABEL, color=OUT, weight="bold")
    for height, (name, at) in enumerate(sorted(_moments_by_name(result).items(), key=lambda moment: moment[1])):
        color = {"limit": LIMIT, "frozen": FREEZE, "alert": ALERT}[name]
        for axes in (above, below):
            axes.axvline(at, color=color, linewidth=1.2, linestyle=(0, (4, 2)))
        side = -1 if at > end * 0.8 else 1
        above.annotate(
            f"{name} {at:.1f} s",
            (at, highest * (1.13 - 0.1 * height)),
            (4 * side, 0),
            textcoords="offset points",
            color=color,
            weight="bold",
            ha="left" if side > 0 else "right",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
    above.set_title(
        f"{result.drill}: {fill(result.title, 74 - len(result.drill))}", loc="left", weight="bold", fontsize=9.5
    )
    above.set(xlim=(0, end), ylim=(0, highest * 1.2), ylabel="messages")
    above.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    above.grid(axis="y", color="#edf0f4")
    above.tick_params(labelbottom=False, length=0)
    below.eventplot([result.innocents_at], colors=INNOCENT, lineoffsets=0, linelengths=0.9, linewidths=1.2)
    below.set(xlim=(0, end), ylim=(-0.6, 0.6), yticks=[])
    below.spines["left"].set_visible(False)
    below.set_xlabel(_summary_text(result), loc="left", fontsize=8)


_END_LABEL: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False, "fontsize": 8}


def _moments_by_name(result: DrillResult) -> dict[str, float]:
    moments = {"limit": result.limit, "frozen": result.freeze, "alert": result.alert}
    return {name: at for name, at in moments.items() if at is not None}


def _draw_steps(axes: Axes, at: Sequence[float], end: float, **style: Any) -> None:
    """A step at each of these moments."""
    times = [0.0, *at, end]
    counts = [0, *range(1, len(at) + 1), len(at)]
    axes.step(times, counts, where="post", **style)
    axes.fill_between(times, counts, step="post", color=style["color"], alpha=0.12, linewidth=0)


def _summary_text(result: DrillResult) -> str:
    innocents = result.innocents
    arrived = f"others' mail arriving (green): {len(result.innocents_at)} delivered"
    harmed = f"{innocents.lost} lost, {innocents.refused} refused, {innocents.delayed} delayed"
    freeze, alert = format_seconds(result.seconds_to_freeze), format_seconds(result.seconds_to_alert)
    frozen = f"frozen {freeze}, the operator told {alert} after the threshold" if result.freeze else "never frozen"
    queue = f"{result.on_hold} held in the queue, {result.queued} left to go out"
    return f"seconds    {arrived}, {harmed}\n{frozen}; {queue}"
