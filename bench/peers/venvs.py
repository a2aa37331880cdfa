"""A venv for each peer, under build/, and the versions that pip chose."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from .catalogue import Peer

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build" / "peers"


class InstallError(RuntimeError):
    """pip could not install a peer; its text has the end of pip's output."""


def folder(peer: Peer) -> Path:
    return HOME / "venvs" / peer.venv


def ensure(peer: Peer) -> None:
    """Make the venv of a peer, unless it stands already with the same requirements. Raises InstallError."""
    home, stamp = folder(peer), folder(peer) / ".requirements"
    ours = (ROOT / "pyproject.toml").read_text() if any(one.startswith(".") for one in peer.requirements) else ""
    wanted = hashlib.sha256(json.dumps([sys.version, ours, *peer.requirements]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {peer.venv}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    editable = [part for one in peer.requirements if one.startswith(".") for part in ("--editable", one)]
    others = [one for one in peer.requirements if not one.startswith(".")]
    command: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet", *editable, *others]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InstallError(f"pip could not install {peer.venv}: {done.stderr[-500:]}")
    stamp.write_text(wanted)


def versions(peer: Peer) -> dict[str, str]:
    """Each package in the venv, with its version."""
    command: list[str | Path] = [folder(peer) / "bin" / "python", "-m", "pip", "list", "--format=json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {one["name"]: one["version"] for one in listed}
