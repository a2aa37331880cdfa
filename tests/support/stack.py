"""A compose file of ours on a Docker engine, as a project of the test's own, and what is done to its containers."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from peerjob import Client
from support import fault_jobs, recurring_jobs
from support.deploying import ROOT

OVERRIDE = ROOT / "tests" / "compose" / "override.yml"
NETWORKS = ("clients", "stores")
GRPC_PORT = 59051


def require_engine() -> None:
    """Skip the test where the docker command, its compose plugin or an engine is missing."""
    for command in (["docker", "compose", "version"], ["docker", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except FileNotFoundError:
            pytest.skip("there is no docker command")
        if done.returncode != 0:
            pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of the stack; by default a node's name is its container's host name, which is the short id."""

    id: str
    name: str

    @property
    def host(self) -> str:
        return self.id[:12]


class Stack:
    """One compose file as a project; `folder` takes what bodies write down and what the containers said."""

    def __init__(self, file: str, folder: Path) -> None:
        self.project = f"peerjob-test-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        journals = folder / "journal"
        journals.mkdir()
        journals.chmod(0o777)  # nodes run as a user of the image's own
        self.journal = journals / "runs"
        self._files = ("--file", str(ROOT / file), "--file", str(OVERRIDE))
        self._env = {
            **os.environ,
            "TESTS": str(ROOT / "tests"),
            "JOURNAL": str(journals),
            "PROMETHEUS_PORT": "0",  # any free one
            "COMPOSE_ANSI": "never",
            "COMPOSE_PROGRESS": "plain",
        }

    def compose(self, *arguments: str) -> str:
        """Run docker compose on the project, and return what it printed."""
        return self._run("docker", "compose", *self._files, "--project-name", self.project, *arguments)

    def docker(self, *arguments: str) -> str:
        return self._run("docker", *arguments)

    def up(self, *options: str) -> None:
        """Bring up what is missing, and wait until all is healthy."""
        self.compose("up", "--detach", "--wait", "--no-recreate", *options)

    def containers(self, service: str = "node") -> list[Container]:
        """The running containers of a service."""
        lines = self.compose("ps", "--no-trunc", "--format", "json", service).splitlines()
        found = [json.loads(line) for line in lines]
        return [Container(id=one["ID"], name=one["Name"]) for one in found if one["State"] == "running"]

    def client(self, *, without: Container | None = None) -> Client:
        """A client of the nodes that run now, by their ports on this machine, but not of the one that is to hang."""
        nodes = [one for one in self.containers() if one != without]
        ports = [self.docker("port", one.id, f"{GRPC_PORT}/tcp").splitlines()[0] for one in nodes]
        return Client(",".join(ports), jobs=(fault_jobs.group, recurring_jobs.group))

    def cut_off(self, node: Container) -> None:
        """Take the network from a node."""
        for network in NETWORKS:
            self.docker("network", "disconnect", f"{self.project}_{network}", node.id)

    def reconnect(self, node: Container) -> None:
        for network in NETWORKS:
            self.docker("network", "connect", "--alias", "node", f"{self.project}_{network}", node.id)

    def etcd_leader(self) -> str:
        """The service that is the leader of the stack's etcd."""
        members = [f"etcd-{number}" for number in (1, 2, 3)]
        endpoints = ",".join(f"http://{member}:2379" for member in members)
        said = self.compose(
            "exec", "--no-TTY", members[0], "etcdctl", "--endpoints", endpoints, "endpoint", "status", "-w", "json"
        )
        for status in json.loads(said):
            if status["Status"]["leader"] == status["Status"]["header"]["member_id"]:
                return str(status["Endpoint"]).removeprefix("http://").partition(":")[0]
        raise AssertionError(said)

    def close(self) -> None:
        """Keep what the containers said, and remove them with all that they kept."""
        (self._folder / "containers.log").write_text(self.compose("logs", "--no-color", "--timestamps"))
        self.compose("down", "--volumes", "--timeout", "1")

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self._env, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout


MakeStack = Callable[[str], Stack]
