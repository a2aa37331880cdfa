"""Servers in containers, for machines that have a Docker engine and not the servers.

A container shares the network of the machine, so that its server listens on the given loopback port, and the data
folder, which outlives the container. The images are those of the compose files, and one of PostgreSQL.
"""

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.processes import ChildProcess

TESTS = Path(__file__).parents[1]
SOCKETS = (Path("/var/run/docker.sock"), Path("~/.docker/run/docker.sock").expanduser())


POSTGRES = "postgres:17.6"


def image_of(kind: str) -> str | None:
    """The image of a server; None where no engine is."""
    if "DOCKER_HOST" not in os.environ and not any(path.is_socket() for path in SOCKETS):
        return None
    if kind == "postgres":
        return POSTGRES
    from support.deploying import ROOT, compose

    service, file = ("redis", "docker-compose.redis.yml") if kind == "redis" else (kind, "docker-compose.yml")
    services = compose(ROOT / file)["services"]
    return str(services["etcd-1" if service == "etcd" else service]["image"])


class ContainerProcess(ChildProcess):
    """A child process that runs a container in the foreground: signals to it go to the container's program."""

    def __init__(
        self, image: str, command: Sequence[str | Path], *, folder: Path, output: Path, user: str | None = None
    ) -> None:
        """Run a command of the image, with `folder` at the same path. Its user is that of the tests, or `user`."""
        self._name = f"peerjob-test-{uuid.uuid4().hex}"
        arguments = [image, self._name, folder, user or f"{os.getuid()}:{os.getgid()}", *command]
        env = {"PYTHONPATH": str(TESTS)}
        super().__init__([sys.executable, "-P", "-u", "-m", "support.containers", *arguments], output=output, env=env)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program in the container."""
        if self.running:
            _containers().get(self._name).kill(number.name)

    def pause(self) -> None:
        """Freeze the program in the container."""
        self.was_paused = True
        self.signal(signal.SIGSTOP)

    def close(self) -> None:
        """Kill the container, if it still runs."""
        from docker.errors import APIError

        # the container may have ended
        with contextlib.suppress(APIError):
            _containers().get(self._name).kill("SIGKILL")
        super().close()


def _containers() -> Any:
    from testcontainers.core.docker_client import DockerClient

    client: Any = DockerClient().client
    return client.containers


def _run(image: str, name: str, folder: str, user: str, command: Sequence[str]) -> int:
    """Run a container, print its output, and return the exit status of its program."""
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(
        image, name=name, volumes=[(folder, folder, "rw")], network_mode="host", user=user
    ).with_command([*command])
    with container:
        running: Any = container.get_wrapped_container()
        for piece in running.logs(stream=True, follow=True):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return int(running.wait()["StatusCode"])


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]))
