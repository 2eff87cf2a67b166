"""Writes docs/grafana-dashboard.json, a dashboard of the figures of `mailkeepctl metrics`: `make manual`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).resolve().parents[1] / "docs" / "grafana-dashboard.json"
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Panel(NamedTuple):
    title: str
    expression: str
    legend: str
    unit: str = "short"
    kind: str = "timeseries"


SERVER = '{instance=~"$server"}'
PANELS = (
    Panel("Wrong now", f"mailkeep_findings{SERVER} > 0", "{{harm}}", kind="stat"),
    Panel("Sensors that could not look", f"mailkeep_sensors_not_looked_at{SERVER}", "{{instance}}", kind="stat"),
    Panel("Figures that could not be read", f"mailkeep_looked_at{SERVER} == 0", "{{what}}", kind="stat"),
    Panel("Queue", f"mailkeep_queue_messages{SERVER}", "{{queue}}"),
    Panel("Messages of the last day", f"mailkeep_messages_last_day{SERVER}", "messages"),
    Panel("Recipients of the last day", f"mailkeep_recipients_last_day{SERVER}", "recipients"),
    Panel("Active accounts", f"mailkeep_accounts_active{SERVER}", "active"),
    Panel("Frozen accounts", f"mailkeep_accounts_frozen{SERVER}", "frozen", kind="stat"),
    Panel("Banned", f"mailkeep_bans{SERVER}", "{{jail}}"),
    Panel("Disk in use", f"mailkeep_disk_used_ratio{SERVER}", "{{path}}", "percentunit"),
    Panel("Inodes in use", f"mailkeep_disk_inodes_used_ratio{SERVER}", "{{path}}", "percentunit"),
    Panel(
        "Certificate ends in",
        f"mailkeep_certificate_end_timestamp_seconds{SERVER} - time()",
        "{{instance}}",
        "s",
        "stat",
    ),
    Panel(
        "Age of the last backup", f"time() - mailkeep_backup_last_success_timestamp_seconds{SERVER}", "{{target}}", "s"
    ),
    Panel("Age of the last proof", f"time() - mailkeep_backup_last_proof_timestamp_seconds{SERVER}", "{{target}}", "s"),
    Panel("Questions of Postfix a second", f"rate(mailkeep_requests_total{SERVER}[5m])", "questions"),
    Panel("Commits a second", f"rate(mailkeep_commits_total{SERVER}[5m])", "commits"),
    Panel("Commits that failed", f"increase(mailkeep_commit_failures_total{SERVER}[1h])", "in an hour", kind="stat"),
)


def main() -> None:
    TARGET.write_text(format_dashboard())


def format_dashboard() -> str:
    dashboard = {
        "title": "Mailkeep",
        "uid": "mailkeep",
        "schemaVersion": 39,
        "time": {"from": "now-7d", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [build_source(), build_servers()]},
        "panels": [build_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return f"{json.dumps(dashboard, indent=2)}\n"


def build_source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def build_servers() -> dict[str, Any]:
    query = "label_values(mailkeep_looked_at, instance)"
    return {
        "name": "server",
        "label": "Server",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "servers"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def build_panel(number: int, panel: Panel) -> dict[str, Any]:
    across = COLUMNS // WIDTH
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": {"x": number % across * WIDTH, "y": number // across * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": panel.expression, "legendFormat": panel.legend}],
    }


if __name__ == "__main__":
    main()
