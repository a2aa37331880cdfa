"""What files for containers are read with: compose files as compose reads them, and which options there are."""

import functools
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from peerjob.cli.ctl.settings import IN_CONTEXTS
from peerjob.cli.daemon.settings import DaemonSettings

ROOT = Path(__file__).parents[2]
COMPOSE_FILES = sorted(ROOT.glob("docker-compose*.yml"))

Tree = dict[str, Any]

JOBD_VARIABLES = {f"PEERJOB_{one.name.upper()}" for one in fields(DaemonSettings)} | {"PEERJOB_JOBD_CONFIG"}
JOBCTL_VARIABLES = {f"PEERJOB_{name.upper()}" for name in IN_CONTEXTS} | {"PEERJOB_CONTEXT", "PEERJOB_CONFIG"}


def program(*names: str, package: str) -> str:
    """The first program of these on the PATH. Without any the test is skipped; CI must have one."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        reason = f"there is no {names[0]} (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(f"CI must have every tool: {reason}")
        pytest.skip(reason)
    return found


@functools.cache
def compose(file: Path) -> Tree:
    """A compose file with what it includes and extends; variables and paths are left as they are."""
    tree: Tree = yaml.safe_load(file.read_text())
    whole: Tree = {"services": {}, "volumes": {}, "networks": {}}
    for name in tree.get("include", []):
        whole = merged(whole, compose(file.parent / name))
    services: Tree = {}
    for name, service in tree.get("services", {}).items():
        base: Tree = {}
        if "extends" in service:
            other = service["extends"]
            base = compose(file.parent / other["file"])["services"][other["service"]]
        services[name] = merged(base, {key: value for key, value in service.items() if key != "extends"})
    sections = {key: tree.get(key) or {} for key in ("volumes", "networks")}
    return merged(whole, {"services": services, **sections})


def merged(base: Tree, more: Tree) -> Tree:
    """Both, where `more` wins; mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in more.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
