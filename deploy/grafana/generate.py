"""Writes the Grafana dashboard, recommendation-service.json beside this file: python deploy/grafana/generate.py

Why generated: a dashboard is a thousand lines of JSON, and each of its panels is three that matter. A test compares the
file with what is generated here, and runs each query against a real Prometheus.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("recommendation-service.json")
COLUMNS = 24  # of Grafana's grid
HEIGHT = 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Each variable: the label, and where its values come from.
VARIABLES = {"job": "label_values(recs_ready, job)", "instance": 'label_values(recs_ready{job="$job"}, instance)'}

OURS = 'job="$job", instance=~"$instance"'
FEEDS = f'{OURS}, endpoint=~"total|discover|flow"'


@dataclass(frozen=True)
class Panel:
    """A panel with its queries, each with the text of its lines in the legend."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    description: str
    limit: float | None = None  # of an alert: a red line
    width: int = 12
    kind: str = "timeseries"
    floor: bool = False  # the alert is at less than the limit


def rate(metric: str, selector: str = OURS) -> str:
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def quantile(share: float, by: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate('recs_request_seconds_bucket', FEEDS)}))"


def ratio(part: str, whole: str) -> str:
    return f"{part} / {whole}"


_FAILED = f'{FEEDS}, status=~"5.."'
_THROUGHPUT = f"sum({rate('recs_requests_total', FEEDS)})"
_ERRORS = ratio(f"sum({rate('recs_requests_total', _FAILED)})", _THROUGHPUT)
_CPU = ratio(
    f"sum by (instance) ({rate('recs_cpu_seconds_total')})",
    f"sum by (instance) (recs_cpu_cores{{{OURS}}})",
)
_MEMORY = f"sum by (instance) (recs_memory_bytes{{{OURS}}})"
_MYSQL_CONNECTIONS = f"max(recs_mysql_threads_connected{{{OURS}}})"
_HITS = f'{OURS}, outcome=~"hit|negative"'
_PER_ENDPOINT = "{{endpoint}}"


def _stat(title: str, unit: str, query: str, description: str, limit: float, floor: bool = False) -> Panel:
    return Panel(title, unit, [(query, "")], description, limit, width=4, kind="stat", floor=floor)


ROWS: dict[str, Sequence[Panel]] = {
    "What alerts watch": (
        _stat("Throughput", "reqps", _THROUGHPUT, "Feeds answered a second. Alert below 100.", 100, floor=True),
        _stat("P95", "s", quantile(0.95), "95 % of the feeds are answered faster. Alert above 2 s.", 2),
        _stat("Error rate", "percentunit", _ERRORS, "Feeds answered with 5xx. Alert above 1 %.", 0.01),
        _stat("CPU", "percentunit", f"max({_CPU})", "Of the cores that the busiest instance may use.", 0.9),
        _stat("Memory", "decbytes", f"max({_MEMORY})", "Of the largest instance. Alert above 7 GB.", 7e9),
        _stat("MySQL connections", "none", _MYSQL_CONNECTIONS, "Of everyone. Alert above 150.", 150),
    ),
    "Requests": (
        Panel(
            "Throughput by endpoint",
            "reqps",
            [(f"sum by (endpoint) ({rate('recs_requests_total')})", _PER_ENDPOINT)],
            "Requests answered a second, whatever the answer.",
        ),
        Panel(
            "Error rate by endpoint",
            "percentunit",
            [
                (
                    ratio(
                        f"sum by (endpoint) ({rate('recs_requests_total', _FAILED)})",
                        f"sum by (endpoint) ({rate('recs_requests_total', FEEDS)})",
                    ),
                    _PER_ENDPOINT,
                )
            ],
            "Share of the answers that are 5xx.",
            limit=0.01,
        ),
        *(
            Panel(
                f"P{share * 100:.0f} by endpoint",
                "s",
                [(quantile(share, "endpoint"), _PER_ENDPOINT)],
                "From a request's first byte to its answer, inside the service.",
                limit=2 if share == 0.95 else None,
                width=8,
            )
            for share in (0.5, 0.95, 0.99)
        ),
        Panel(
            "Answers by status",
            "reqps",
            [(f"sum by (status) ({rate('recs_requests_total')})", "{{status}}")],
            "429: a limit of requests; 503: overloaded or not ready; 0: the client left.",
        ),
        Panel(
            "Errors by reason",
            "reqps",
            [(f"sum by (code) ({rate('recs_errors_total')})", "{{code}}")],
            "The `code` of the answers that bear an error.",
        ),
    ),
    "Processes": (
        Panel("CPU", "percentunit", [(_CPU, "{{instance}}")], "Of the cores that the service may use.", limit=0.9),
        Panel(
            "CPU by process",
            "none",
            [(f"sum by (process) ({rate('recs_cpu_seconds_total')})", "{{process}}")],
            "Cores in use.",
        ),
        Panel("Memory", "decbytes", [(_MEMORY, "{{instance}}")], "What is shared counts once.", limit=7e9, width=8),
        Panel(
            "Active connections",
            "none",
            [(f"sum by (instance) (recs_http_connections{{{OURS}}})", "{{instance}}")],
            "Open connections of clients, or of the proxy in front.",
            width=8,
        ),
        Panel(
            "Processes",
            "none",
            [(f"sum by (process) (recs_processes{{{OURS}}})", "{{process}}")],
            "That run now.",
            width=8,
        ),
    ),
    "Database server": (
        Panel(
            "MySQL connections",
            "none",
            [
                (_MYSQL_CONNECTIONS, "connected"),
                (f"max(recs_mysql_threads_running{{{OURS}}})", "running a statement"),
                (f"max(recs_mysql_max_connections{{{OURS}}})", "max_connections"),
            ],
            "Of everyone, not of the service alone.",
            limit=150,
            width=8,
        ),
        Panel(
            "Connections in use by the service",
            "none",
            [
                (f"sum by (process) (recs_database_pool_in_use{{{OURS}}})", "{{process}}"),
                (f"sum by (process) (recs_database_pool_size{{{OURS}}})", "{{process}}, at most"),
            ],
            "Of the worker that answered, of the refresher and of the flusher.",
            width=8,
        ),
        Panel(
            "Attempts to connect that failed",
            "reqps",
            [(f"max({rate('recs_mysql_connects_failed_total')})", "failed")],
            "Of everyone: too many connections, a wrong password, a client that left.",
            width=8,
        ),
        Panel(
            "Slow queries",
            "reqps",
            [(f"max({rate('recs_mysql_slow_queries_total')})", "slower than long_query_time")],
            "A second, of everyone. The server's long_query_time is beside it: 1 s is meant.",
            width=9,
        ),
        Panel(
            "long_query_time",
            "s",
            [(f"max(recs_mysql_long_query_seconds{{{OURS}}})", "")],
            "What counts as slow. Above 1 s: SET GLOBAL long_query_time = 1.",
            width=3,
            kind="stat",
        ),
        Panel(
            "Waits for a connection",
            "none",
            [
                (f"sum by (process) ({rate('recs_database_pool_waits_total')})", "{{process}} waited"),
                (f"sum by (process) ({rate('recs_database_pool_timeouts_total')})", "{{process}} in vain"),
            ],
            "A second, while all of a pool were in use.",
        ),
        Panel(
            "Use of each index",
            "none",
            [(f"max by (table, index) ({rate('recs_mysql_index_reads_total')})", "{{table}}.{{index}}")],
            "Rows read a second through each index; (none): by reading the table. Needs performance_schema.",
            width=24,
        ),
    ),
    "Catalog and feeds": (
        Panel(
            "Age of the catalog",
            "s",
            [(f"time() - recs_catalog_built_timestamp_seconds{{{OURS}}}", "{{instance}}")],
            "Grows to CATALOG_MAX_AGE_SECONDS while nothing changes.",
        ),
        Panel(
            "Builds that failed",
            "none",
            [(f"max by (instance) (recs_catalog_build_failures{{{OURS}}})", "{{instance}}")],
            "Since the last good one.",
        ),
        Panel(
            "Time of a build",
            "s",
            [
                (f"max by (query) (recs_catalog_query_seconds{{{OURS}}})", "{{query}}"),
                (f"max(recs_catalog_build_seconds{{{OURS}}})", "building"),
            ],
            "Of each source query of the last build, and of what follows them.",
        ),
        Panel(
            "Hits of the cache",
            "percentunit",
            [
                (
                    ratio(
                        f"sum by (level) ({rate('recs_cache_lookups_total', _HITS)})",
                        f"sum by (level) ({rate('recs_cache_lookups_total')})",
                    ),
                    "{{level}}",
                )
            ],
            "Share of the lookups of users outside the catalog that L1 and Redis (L2) answered.",
        ),
        Panel(
            "Users from the tables",
            "reqps",
            [(f"sum by (outcome) ({rate('recs_cache_reads_total')})", "{{outcome}}")],
            "Reads of users that no cache had.",
        ),
        Panel(
            "Time of each stage",
            "s",
            [
                (
                    ratio(
                        f"sum by (stage) ({rate('recs_feed_stage_seconds_sum')})",
                        f"sum by (stage) ({rate('recs_feed_stage_seconds_count')})",
                    ),
                    "{{stage}}",
                )
            ],
            "Mean of one feed in 64.",
            width=24,
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard, in the form that Grafana imports."""
    return {
        "uid": "recommendation-service",
        "title": "Recommendation service",
        "tags": ["recommendation-service"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "graphTooltip": 1,
        "templating": {"list": [_datasource(), *(_variable(name, query) for name, query in VARIABLES.items())]},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for row, panels in ROWS.items():
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": row, "collapsed": False, "gridPos": place, "panels": []}
        )
        y, x = y + 1, 0
        height = HEIGHT // 2 if all(panel.kind == "stat" for panel in panels) else HEIGHT
        for panel in panels:
            if x + panel.width > COLUMNS:
                y, x = y + height, 0
            place = {"h": height, "w": panel.width, "x": x, "y": y}
            found.append({"id": len(found) + 1, "gridPos": place, **_panel(panel)})
            x += panel.width
        y += height
    return found


def _panel(panel: Panel) -> dict[str, Any]:
    good, bad = ("red", "green") if panel.floor else ("green", "red")
    steps: list[dict[str, Any]] = [{"color": good, "value": None}]
    if panel.limit is not None:
        steps.append({"color": bad, "value": panel.limit})
    custom = {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}, "showPoints": "never"}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": custom if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "options": options,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    several = name == "instance"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": several,
        "includeAll": several,
        **({"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if several else {}),
    }


def rendered() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered(), "utf-8")
