"""The picture of the dashboard shows the figures of the server, by the dashboard's expressions."""

import json
from pathlib import Path

import pytest

from bench.dashboard_picture import DASHBOARD, Scrape, draw_dashboard, evaluate
from mailkeep_server.operator import metrics

SERVER = '{instance=~"$server"}'
BEGAN = 1_796_000_000.0


def make_scrapes(*texts: str) -> list[Scrape]:
    """A minute apart."""
    return [Scrape(BEGAN + 60 * number, text) for number, text in enumerate(texts)]


QUEUE = make_scrapes(
    'mailkeep_queue_messages{queue="hold"} 0\nmailkeep_requests_total 60\nmailkeep_end 1796000600',
    'mailkeep_queue_messages{queue="hold"} 5\nmailkeep_requests_total 180\nmailkeep_end 1796000600',
)


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        (f"mailkeep_queue_messages{SERVER}", {"hold": [0, 5]}),
        (f"mailkeep_queue_messages{SERVER} > 0", {"hold": [5]}),
        (f"mailkeep_queue_messages{SERVER} == 0", {"hold": [0]}),
        (f"rate(mailkeep_requests_total{SERVER}[5m])", {"": [2]}),
        (f"increase(mailkeep_requests_total{SERVER}[1h])", {"": [120]}),
        (f"mailkeep_end{SERVER} - time()", {"": [600, 540]}),
        (f"time() - mailkeep_end{SERVER}", {"": [-600, -540]}),
        (f"mailkeep_absent{SERVER}", {}),
    ],
)
def test_an_expression_has_the_value_that_prometheus_gives(expression: str, values: dict[str, list[float]]) -> None:
    series = evaluate(expression, QUEUE)
    assert {label: [value for _, value in points] for label, points in series.items()} == values


def test_an_unknown_expression_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown expression: sum"):
        evaluate(f"sum(mailkeep_bans{SERVER})", QUEUE)


@pytest.mark.slow
def test_every_panel_can_be_drawn(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    text = "\n".join(f"{name} 1" for name in metrics.NAMES)
    scrapes = make_scrapes(text, text)
    assert any(evaluate(panel["targets"][0]["expr"], scrapes) for panel in panels)
    draw_dashboard(scrapes, tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")
