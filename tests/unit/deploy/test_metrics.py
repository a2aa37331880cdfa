"""The dashboard and the alerts: they ask for what there is, and Prometheus understands them."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from peerjob import Job, Metrics, Node
from peerjob.cli.jobd import app as jobd
from peerjob.node.observe.metrics import catalogue
from support.jobctl import VERBS, verbs
from support.scrapes import series_of

pytestmark = pytest.mark.one_python

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "peerjob.json"
ALERTS = DEPLOY / "prometheus" / "peerjob-alerts.yml"
RULE_TESTS = DEPLOY / "prometheus" / "peerjob-alerts-test.yml"
CONFIGS = sorted((DEPLOY / "prometheus").glob("prometheus*.yml"))
KNOWN = {name for metric in catalogue.ALL for name in series_of(metric)}


def expressions() -> Iterator[str]:
    """Every query of the dashboard."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


def promtool(*args: str | Path, text: str | None = None) -> str:
    """What promtool says of it; it fails the test if that is not well."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install promtool)")
    done = subprocess.run([program, *args], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("file", [DASHBOARD, ALERTS, RULE_TESTS], ids=lambda path: path.name)
def test_only_metrics_that_there_are_are_asked_for(file: Path) -> None:
    asked = set(re.findall(r"\bpeerjob_\w+", file.read_text()))

    assert asked
    assert asked <= KNOWN


def test_every_metric_is_shown() -> None:
    """Each metric is in the dashboard or in an alert, except those in this list."""
    used = set(re.findall(r"\bpeerjob_\w+", DASHBOARD.read_text() + ALERTS.read_text()))

    assert {metric.name for metric in catalogue.ALL if not used & set(series_of(metric))} <= {
        "peerjob_node_up",  # says of a stopped node that the rest is missing for that reason
        "peerjob_registered",  # for users of go-job
        "peerjob_outbox_rows",  # the age of the oldest row tells whether a relay works
        "peerjob_inbox_instances",  # the size of a table of the application
    }


def test_labels_that_are_asked_for_are_those_of_the_metric() -> None:
    labels = {name: {*metric.labels, "job", "instance"} for metric in catalogue.ALL for name in series_of(metric)}
    for text in (*expressions(), ALERTS.read_text()):
        for name, matchers in re.findall(r"\b(peerjob_\w+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name], text


def test_panels_have_places_of_their_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_prometheus_takes_the_configuration_and_the_alerts(config: Path) -> None:
    assert "SUCCESS" in promtool("check", "config", config)


def test_alerts_come_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"test:query_{number}", "expr": one.replace("$__rate_interval", "1m").replace("$job", "peerjob")}
        for number, one in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # which is YAML as well

    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


async def test_prometheus_accepts_every_metric() -> None:
    def nothing() -> None:
        pass

    async with Node("memory://", jobs=Job("nothing", nothing)) as node:
        metrics = Metrics(node)
        await (await node.schedule("nothing")).wait(60)
        _, text = await metrics.exposition()

    await asyncio.to_thread(promtool, "check", "metrics", text=text.decode())


def test_each_alert_is_seen_to_come() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    came = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", RULE_TESTS.read_text()))

    assert alerts
    assert came == alerts


def runbook() -> dict[str, dict[str, str]]:
    """Alert → symptom, command, meaning and action."""
    text = (DEPLOY.parent / "docs" / "operations.md").read_text().partition("## Alerts")[2]
    entries = re.split(r"^### (\w+)$", text, flags=re.MULTILINE)[1:]
    rows = (dict(re.findall(r"^\| (\w+) \| (.+) \|$", body, re.MULTILINE)) for body in entries[1::2])
    return dict(zip(entries[::2], rows, strict=True))


def test_each_alert_has_its_symptom_command_meaning_and_action() -> None:
    entries = runbook()
    assert entries.keys() == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    for alert, rows in entries.items():
        assert list(rows) == ["symptom", "command", "meaning", "action"], alert


def test_the_commands_of_the_runbook_exist() -> None:
    daemon = verbs(typer.main.get_command(jobd))
    known = {("jobctl", *path) for path in VERBS} | {("jobd", *path) for path in daemon}
    for alert, rows in runbook().items():
        named = re.findall(r"`(job(?:ctl|d) [^`]+)`", f"{rows['command']} {rows['action']}")
        assert named, alert
        commands = [text.split() for text in named]
        for words in commands:
            assert {tuple(words[:2]), tuple(words[:3])} & known, (alert, words)


def test_the_document_names_only_existing_metrics() -> None:
    document = (DEPLOY.parent / "docs" / "operations.md").read_text()
    assert set(re.findall(r"\bpeerjob_\w+", document)) <= KNOWN | {metric.name for metric in catalogue.ALL}
