"""Draws the panels of docs/grafana-dashboard.json from figures of `mailkeepctl metrics`, as Grafana would show them.

bench/dashboard.py takes the figures from a server of the lab. Only the few forms of PromQL are known that the dashboard
has; another one is an error.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mailkeep.drills.picture import INK, STYLE

DASHBOARD = Path(__file__).resolve().parents[1] / "docs" / "grafana-dashboard.json"
COLORS = ("#1f5fbf", "#2b8a57", "#d98200", "#7a3fb0", "#c81e3a", "#0e8a8f", "#9aa5b1", "#8a5a2b")
MAX_SERIES = 8  # in a legend
COLUMN, ROW = 4.4, 2.3  # inches of a panel
HEADROOM = 1.4  # of the axis above the highest value; the legend is there
MINUTE, HOUR, DAY = 60, 3600, 86_400
_SAMPLE = re.compile(r'(?P<name>[a-z_]+)(?:\{(?P<label>[a-z]+)="(?P<value>(?:[^"\\]|\\.)*)"\})? (?P<number>[0-9.e+-]+)')
_EXPRESSION = re.compile(
    r"(?P<before>time\(\) - )?(?:(?P<function>rate|increase)\()?(?P<name>[a-z_]+)\{instance=~\"\$server\"\}"
    r"(?:\[(?P<window>\d+)(?P<unit>[mh])\]\))?(?P<after> - time\(\)| > 0| == 0)?"
)

Point = tuple[float, float]
Series = dict[str, list[Point]]
"""By label, the moments in seconds since the epoch and the values."""


class Scrape(NamedTuple):
    """What `mailkeepctl metrics` printed at a moment, in seconds since the epoch."""

    at: float
    text: str


def read_series(scrapes: Sequence[Scrape], name: str) -> Series:
    series: Series = {}
    for scrape in scrapes:
        for line in scrape.text.splitlines():
            if (match := _SAMPLE.fullmatch(line)) and match["name"] == name:
                series.setdefault(match["value"] or "", []).append((scrape.at, float(match["number"])))
    return series


def evaluate(expression: str, scrapes: Sequence[Scrape]) -> Series:
    """The result of a panel's expression at each moment. Raises ValueError for a form that is not known."""
    if not (match := _EXPRESSION.fullmatch(expression)):
        raise ValueError(f"unknown expression: {expression}")
    series = read_series(scrapes, match["name"])
    if match["function"]:
        window = int(match["window"]) * {"m": MINUTE, "h": HOUR}[match["unit"]]
        grow = _measure_rate if match["function"] == "rate" else _measure_increase
        return {label: [(at, grow(points, at, window)) for at, _ in points[1:]] for label, points in series.items()}
    changes: dict[str, Callable[[float, float], float | None]] = {
        "time() - ": lambda at, value: at - value,
        " - time()": lambda at, value: value - at,
        " > 0": lambda _, value: value if value > 0 else None,
        " == 0": lambda _, value: value if value == 0 else None,
        "": lambda _, value: value,
    }
    change = changes[match["before"] or match["after"] or ""]
    results = {
        label: [(at, result) for at, value in points if (result := change(at, value)) is not None]
        for label, points in series.items()
    }
    return {label: points for label, points in results.items() if points}


def _measure_increase(points: list[Point], at: float, window: float) -> float:
    within = [value for moment, value in points if at - window <= moment <= at]
    return within[-1] - within[0]


def _measure_rate(points: list[Point], at: float, window: float) -> float:
    first = min(moment for moment, _ in points if moment >= at - window)
    return _measure_increase(points, at, window) / (at - first) if at > first else 0.0


def draw_dashboard(scrapes: Sequence[Scrape], to: Path) -> None:
    """Writes a PNG."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    columns = max(panel["gridPos"]["x"] for panel in panels) // panels[0]["gridPos"]["w"] + 1
    rows = -(-len(panels) // columns)
    with rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=(columns * COLUMN, rows * ROW), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
        grid = figure.subplots(rows, columns, squeeze=False)
        for number in range(rows * columns):
            axes = grid[number // columns][number % columns]
            if number < len(panels):
                draw_panel(axes, panels[number], scrapes)
            else:
                axes.set_axis_off()
        figure.savefig(to, dpi=110)


def draw_panel(axes: Axes, panel: dict[str, Any], scrapes: Sequence[Scrape]) -> None:
    target, unit = panel["targets"][0], panel["fieldConfig"]["defaults"]["unit"]
    series = evaluate(target["expr"], scrapes)
    names = {label: name_series(target["legendFormat"], label) for label in series}
    axes.set_title(panel["title"], loc="left", weight="bold", fontsize=10)
    if panel["type"] == "stat":
        latest = {names[label]: points[-1][1] for label, points in series.items() if points[-1][0] == scrapes[-1].at}
        draw_numbers(axes, latest, unit)
        return
    began = scrapes[0].at
    for number, (label, points) in enumerate(series.items()):
        times, values = [at - began for at, _ in points], [value for _, value in points]
        legend = names[label] if number < MAX_SERIES else None
        axes.plot(times, values, color=COLORS[number % len(COLORS)], linewidth=1.6, label=legend)
    highest = max((value for points in series.values() for _, value in points), default=0.0)
    axes.set_xlim(0, scrapes[-1].at - began)
    axes.set_ylim(0, highest * HEADROOM or 1)
    axes.grid(axis="y", color="#edf0f4")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=unit == "short" and highest >= 2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    if not series:
        draw_no_data(axes)
    elif len(series) > 1:
        axes.legend(loc="upper left", ncols=2, fontsize=7, frameon=False, handlelength=1.0, columnspacing=1.0)


def draw_no_data(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="#9aa5b1")


def draw_numbers(axes: Axes, numbers: dict[str, float], unit: str) -> None:
    axes.set_axis_off()
    if not numbers:
        draw_no_data(axes)
    for place, (name, value) in enumerate(numbers.items()):
        x = (place + 0.5) / len(numbers)
        text = format_value(value, unit)
        axes.text(x, 0.58, text, transform=axes.transAxes, ha="center", va="center", fontsize=24, color=INK)
        axes.text(x, 0.18, name, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=INK)


def name_series(legend: str, label: str) -> str:
    return re.sub(r"\{\{\w+\}\}", label or "mail.example.test", legend)


def format_value(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}" if value >= 0.1 or not value else f"{value:.1%}"
    if unit != "s":
        return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    for seconds, name in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "min")):
        if abs(value) >= 2 * seconds:
            return f"{value / seconds:,.0f} {name}"
    return f"{value:.0f} s"
