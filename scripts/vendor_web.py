"""Fetch the scripts of the dashboard from their npm packages into src/peerjob/web/static/vendor.

The files are committed, so an installation needs neither npm nor a network. npm checks each package against the hash
below. With --check, the script fetches nothing, and fails if a committed file differs from its hash.
"""

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "src/peerjob/web/static/vendor"


@dataclass(frozen=True, kw_only=True)
class Package:
    name: str
    version: str
    license: str
    integrity: str
    """SHA-512 of the package, as the registry lists it."""
    files: dict[str, tuple[str, str]]
    """Path in the package → (name in the folder, SHA-256)."""


PACKAGES = (
    Package(
        name="htmx.org",
        version="2.0.11",
        license="0BSD",
        integrity="sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==",
        files={
            "dist/htmx.min.js": ("htmx.min.js", "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"),
            "LICENSE": ("htmx.LICENSE.txt", "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38"),
        },
    ),
    Package(
        name="uplot",
        version="1.6.32",
        license="MIT",
        integrity="sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        files={
            "dist/uPlot.iife.min.js": (
                "uPlot.iife.min.js",
                "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            ),
            "dist/uPlot.min.css": ("uPlot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
            "LICENSE": ("uPlot.LICENSE.txt", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
        },
    ),
)


def main() -> int:
    if sys.argv[1:] not in ([], ["--check"]):
        print(f"usage: {sys.argv[0]} [--check]", file=sys.stderr)
        return 2
    if not sys.argv[1:]:
        for package in PACKAGES:
            fetch(package)
    problems = [problem for package in PACKAGES for problem in problems_of(package)]
    expected = {name for package in PACKAGES for name, _ in package.files.values()}
    problems += [f"{path.name} is of no package" for path in VENDOR.iterdir() if path.name not in expected]
    for problem in problems:
        print(f"{VENDOR.name}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def fetch(package: Package) -> None:
    """Write the files of a package, after its hash was compared."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"{package.name}@{package.version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        [archive] = Path(folder).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != package.integrity:
            raise SystemExit(f"{package.name} {package.version} has the hash sha512-{digest}")
        with tarfile.open(archive) as opened:
            for path, (name, _) in package.files.items():
                member = opened.extractfile(f"package/{path}")
                assert member is not None, path
                VENDOR.joinpath(name).write_bytes(member.read())


def problems_of(package: Package) -> list[str]:
    """What is wrong with the committed files of a package."""
    problems: list[str] = []
    for name, expected in package.files.values():
        path = VENDOR / name
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if digest != expected:
            problems.append(f"{name}: expected {expected}, found {digest}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
