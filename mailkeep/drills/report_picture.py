"""A report as a picture: a bar for each row, of what became of the recipients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.figure import Figure

from mailkeep.drills.picture import STYLE

COLOURS = {"delivered": "#2b8a57", "bounced": "#c81e3a", "deferred": "#d98200", "rejected": "#9aa5b1"}
MAX_ROWS = 60


def draw_reports(reports: Sequence[dict[str, Any]], to: Path) -> list[Path]:
    """Draws `to`.svg and `to`.png, with a panel for each host. Returns both paths."""
    with rc_context(cast(Any, STYLE)):
        height = sum(1.2 + 0.22 * min(len(report["rows"]), MAX_ROWS) for report in reports)
        figure = Figure(figsize=(8, max(3, height)), layout="constrained")
        panels = figure.subplots(len(reports), 1, squeeze=False)
        for report, (panel,) in zip(reports, panels, strict=True):
            rows = report["rows"][:MAX_ROWS]
            keys, starts = [row["key"] for row in rows], [0] * len(rows)
            for name, colour in COLOURS.items():
                numbers = [row[name] for row in rows]
                panel.barh(keys, numbers, left=starts, color=colour, label=name)
                starts = [start + number for start, number in zip(starts, numbers, strict=True)]
            panel.invert_yaxis()
            panel.set_title(
                f"{report['host']} {report['first'][:16]} to {report['last'][:16]}".replace("T", " ").strip()
            )
            panel.set_xlabel("recipients")
            panel.legend(frameon=False)
        to.parent.mkdir(parents=True, exist_ok=True)
        svg, png = to.with_suffix(".svg"), to.with_suffix(".png")
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=160)
    return [svg, png]
