"""The table of docs/guarantees.md names a run for each of its cells, and each run exists."""

import base64
import re
from pathlib import Path

import pytest
import yaml

from peerjob.cluster.lease import INTERVAL, LOOP_ANSWERS, WITHDRAW_TIMEOUT
from support.lab.crew import played
from support.lab.setups import SETUPS
from support.manifests import build

ROOT = Path(__file__).parents[2]
RUN = re.compile(r"; `(?:faultlab (?P<setup>\S+)|(?P<test>test_\w+))`$")

pytestmark = pytest.mark.one_python


def cells() -> list[tuple[str, str]]:
    """The store of each row, and each of its cells."""
    _, _, section = (ROOT / "docs" / "guarantees.md").read_text().partition("## What your store makes of it")
    rows = [line.strip("|").split(" | ") for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [(row[0].strip(), cell.strip()) for row in rows[2:] for cell in row[1:]]


def test_each_cell_names_a_run_that_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    found = cells()
    assert len(found) >= 22
    for store, cell in found:
        named = RUN.search(cell)
        assert named is not None, f"{store}: {cell!r} names no run"
        if named["setup"]:
            assert named["setup"] in SETUPS, f"{store}: the lab has no set-up {named['setup']}"
        else:
            assert f"def {named['test']}(" in tests, f"{store}: there is no {named['test']}"


def test_the_page_names_one_time_for_the_instance_of_a_blocked_node() -> None:
    """`test_peers_run_the_instance_that_came_with_the_hint` holds it."""
    text = " ".join((ROOT / "docs" / "guarantees.md").read_text().split())
    assert "until the call returns" not in text
    (seconds,) = re.findall(r"hands such an instance back within about ([\d.]+) s\.", text)
    assert INTERVAL + LOOP_ANSWERS <= float(seconds) < INTERVAL + LOOP_ANSWERS + WITHDRAW_TIMEOUT


def test_the_pods_of_the_lab_are_those_of_the_stateful_set(tmp_path: Path) -> None:
    spec, text = played("valkey://somewhere", "shop", tmp_path)
    (base,) = [one.spec for one in build(ROOT / "k8s" / "base").pods]
    (container,), (original,) = spec["containers"], base["containers"]
    for name in container.keys() - {"volumeMounts", "envFrom"}:
        assert container[name] == original[name]
    assert spec["securityContext"] == base["securityContext"]
    objects = list(yaml.safe_load_all(text))
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "Pod"] == [
        "peerjob-0",
        "peerjob-1",
        "peerjob-2",
    ]
    (secret,) = [one for one in objects if one["kind"] == "Secret"]
    assert base64.b64decode(secret["data"]["url"]) == b"valkey://somewhere"
    assert "LAB_" not in text.replace("LAB_JOURNAL", "").replace("LAB_IN_POD", "")


def test_the_report_has_each_set_up() -> None:
    """A set-up that is renamed or new needs another run of the lab."""
    report = (ROOT / "docs" / "inside" / "lab.md").read_text()
    missing = [name for name in SETUPS if f"\n| {name} | " not in report]
    assert missing == []


def test_the_times_after_a_kill_are_those_of_the_report() -> None:
    """Another run of the lab gives the page for users other times."""
    report = (ROOT / "docs" / "inside" / "lab.md").read_text()
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| .*, `(\S+)` \| (\d+) \| ([\d.]+) s \| ([\d.]+) s \|$", page, re.MULTILINE)
    assert len(rows) >= 8
    for setup, *shown in rows:
        found = re.search(
            rf"^\| {re.escape(setup)} \| node SIGKILL \| (\d+) \| ([\d.]+) s \| ([\d.]+) s \|$", report, re.MULTILINE
        )
        assert found is not None, f"the report has no kills of {setup}"
        times, half, all_of_them = found.groups()
        assert shown == [times, f"{float(half):.1f}", f"{float(all_of_them):.1f}"], setup
