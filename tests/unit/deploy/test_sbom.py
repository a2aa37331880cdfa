"""The software bill of materials that `make sbom` writes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from peerjob import __version__
from support.deploying import ROOT

pytestmark = [pytest.mark.one_python, pytest.mark.matrix("the bill of materials changes with a release")]
pytest.importorskip("cyclonedx_py", reason="the developer's own Python has it")


def test_the_bill_has_each_locked_package_with_its_hashes_and_needs(tmp_path: Path) -> None:
    target = tmp_path / "sbom" / "peerjob.cdx.json"
    subprocess.run([sys.executable, ROOT / "scripts" / "sbom.py", "--output", target], check=True, timeout=120)
    bill = json.loads(target.read_text())
    lock = (ROOT / "deploy" / "requirements.lock").read_text()

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"], root["purl"]) == ("peerjob", __version__, f"pkg:pypi/peerjob@{__version__}")
    locked = dict(re.findall(r"^([\w.-]+)==([^ ;\\]+)", lock, re.MULTILINE))
    assert {one["name"]: one["version"] for one in bill["components"]} == locked
    hashes = {
        one["content"] for part in bill["components"] for ref in part["externalReferences"] for one in ref["hashes"]
    }
    assert hashes == set(re.findall(r"sha256:(\w+)", lock))

    names = {one["bom-ref"]: one["name"] for one in (root, *bill["components"])}
    needs = {names[one["ref"]]: {names[other] for other in one["dependsOn"]} for one in bill["dependencies"]}
    assert needs.keys() == {"peerjob", *locked}
    assert {"msgspec", "pydantic", "hiredis", "redis", "grpcio"} <= needs["peerjob"]
    assert "annotated-types" in needs["pydantic"]
    reached, waiting = set[str](), ["peerjob"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += needs[name]
    assert reached == needs.keys(), "each package is there since another needs it"
