"""Write build/sbom/peerjob.cdx.json: the packages of the image as a CycloneDX software bill of materials.

cyclonedx-py reads the locked releases with their hashes. It knows neither the release of peerjob, which pyproject.toml
takes from the package, nor which package needs which: the comments of the lock file say that.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "deploy" / "requirements.lock"
TARGET = ROOT / "build" / "sbom" / "peerjob.cdx.json"
SPEC = "1.6"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=TARGET, help=f"default: {TARGET.relative_to(ROOT)}")
    output: Path = parser.parse_args().output
    made = bill()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"{json.dumps(made, indent=2)}\n")
    print(f"{output}: {len(made['components'])} packages")
    return 0


def bill() -> dict[str, Any]:
    """The bill of materials."""
    program = Path(sys.executable).with_name("cyclonedx-py")
    command: list[str | Path] = [program, "requirements", LOCK, "--pyproject", ROOT / "pyproject.toml"]
    options = ["--mc-type", "library", "--spec-version", SPEC, "--output-reproducible", "--output-format", "JSON"]
    made = subprocess.run([*command, *options, "--output-file", "-"], capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(made.stderr)
    document: dict[str, Any] = json.loads(made.stdout)
    root = document["metadata"]["component"]
    root["version"] = release()
    root["purl"] = f"pkg:pypi/peerjob@{root['version']}"
    refs = {component["name"]: component["bom-ref"] for component in document["components"]}
    for component in document["components"]:
        del component["description"]  # the text of the line in the lock file
    needs = needed()
    document["dependencies"] = [
        {"ref": ref, "dependsOn": sorted(refs[other] for other in refs if name in needs[other])}
        for name, ref in [("peerjob", root["bom-ref"]), *sorted(refs.items())]
    ]
    return document


def release() -> str:
    """The release of peerjob."""
    text = (ROOT / "src" / "peerjob" / "version.py").read_text()
    match = re.search(r'__version__ = "(.+)"', text)
    assert match is not None
    return match[1]


def needed() -> dict[str, set[str]]:
    """Locked package → the packages that need it."""
    requirements: dict[str, set[str]] = {}
    name = ""
    for line in LOCK.read_text().splitlines():
        if locked := re.match(r"([\w.-]+)==", line):
            name = locked[1]
            requirements[name] = set()
        elif via := re.match(r"    #\s+(?:via\s+)?([\w.-]+)", line):
            requirements[name].add(via[1])
    return requirements


if __name__ == "__main__":
    sys.exit(main())
