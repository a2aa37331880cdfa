"""Nodes in pods: the template of the StatefulSet, played by podman, and this module in the place of the kubelet.

Podman starts a container again that has ended, and makes the root read-only, drops the rights and sets the user. It
asks probes with curl, which the image lacks, and knows no preStop. So probes and preStop are done here, as the template
says.
"""

import asyncio
import base64
import contextlib
import http.client
import os
import signal
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import yaml

from support.deploying import ROOT, Tree
from support.manifests import build
from support.stalls import Span, now_us, stalls_in
from support.waiting import PATIENCE

from .engine import BASE, LIMITS, Engine, engine
from .site import Hit, NodeHarm, Site

PODS = 3
PROBES = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
STORE = "lab-store"
FROZEN = 4.5
"""Seconds for which a process stands still: longer than its lease of 3 s."""


class Pod:
    """A pod of one container, whose process podman starts again."""

    def __init__(self, engine: Engine, name: str, spec: Tree) -> None:
        self._engine = engine
        self.name = name
        (self._template,) = spec["containers"]
        self._grace: int = spec["terminationGracePeriodSeconds"]
        self._container = f"{name}-{self._template['name']}"
        self._ports = {port["name"]: port["containerPort"] for port in self._template["ports"]}
        self.address = ""
        self.pid = 0
        """The process of the container, as this machine knows it; 0 while none is at work."""
        self.started: list[str] = []
        """What each process of the pod calls itself in the journal."""

    async def up(self, *, after: int = 0) -> None:
        """Wait until another process than this one runs, and answers all probes."""
        async with asyncio.timeout(PATIENCE):
            while (pid := await self._found()) in (0, after):  # noqa: ASYNC110  # podman is asked
                await asyncio.sleep(0.2)
            self.started.append(self.node(pid))
            # podman gives another address to a pod whose only container has ended
            infra = await self._engine.run("pod", "inspect", self.name, "--format", "{{.InfraContainerID}}")
            shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            self.address = await self._engine.run("inspect", infra, "--format", shown)
            for probe in PROBES:
                while await self.probe(probe) != 200:  # noqa: ASYNC110  # the node is asked
                    await asyncio.sleep(0.2)
            self.pid = pid

    async def _found(self) -> int:
        return int(await self._engine.run("inspect", self._container, "--format", "{{.State.Pid}}", check=False) or 0)

    def node(self, pid: int) -> str:
        """What a process calls itself in the journal."""
        return f"{self.name}:{start_of(pid)}"

    async def probe(self, name: str) -> int:
        """Ask as the kubelet does, and return the status; 0 without an answer."""
        probe: Tree = self._template[name]
        return await asyncio.to_thread(
            _status,
            self.address,
            self._ports[probe["httpGet"]["port"]],
            probe["httpGet"]["path"],
            probe["timeoutSeconds"],
        )

    async def end(self) -> None:
        """Run preStop, then SIGTERM, as the kubelet does."""
        await self._engine.run("exec", self._container, *self._template["lifecycle"]["preStop"]["exec"]["command"])
        if (status := await self.probe("readinessProbe")) != 503:
            raise AssertionError(f"{self.name} is drained, and its readiness probe answers {status}")
        await self._engine.run("stop", "--time", str(self._grace), self._container)
        code = await self._engine.run("inspect", self._container, "--format", "{{.State.ExitCode}}")
        if code != "0":
            raise AssertionError(f"{self.name} ended with {code} on SIGTERM")

    async def start(self) -> None:
        """Start the container again, which was stopped."""
        await self._engine.run("start", self._container)
        await self.up()

    async def writes(self, path: str) -> bool:
        """Whether the container can make a file there."""
        code = f"open({path!r}, 'w').close()"
        try:
            await self._engine.run("exec", self._container, "python", "-c", code)
        except RuntimeError:
            return False
        return True

    async def lines(self) -> list[str]:
        return (await self._engine.run("logs", self._container, check=False)).splitlines()


class Crew:
    """The pods of a set-up."""

    def __init__(self, engine: Engine, store: str) -> None:
        self._engine = engine
        self._store = store
        self._starting: list[asyncio.Task[None]] = []
        self.pods: list[Pod] = []

    async def start(self, namespace: str, folder: Path) -> None:
        spec, text = played(self._store, namespace, folder)
        await self._engine.run("kube", "play", "-", text=text)
        self.pods = [Pod(self._engine, f"peerjob-{number}", spec) for number in range(PODS)]
        await asyncio.gather(*(pod.up() for pod in self.pods))
        await self._confined(self.pods[0])

    async def _confined(self, pod: Pod) -> None:
        """Raise if the process has rights that the template denies."""
        status = rights_of(pod.pid)
        found = {name: status[name] for name in ("Uid", "CapEff", "NoNewPrivs", "Seccomp")}
        wanted = {"Uid": "\t".join(["10001"] * 4), "CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
        if found != wanted or await pod.writes("/app/x") or await pod.writes("/x") or not await pod.writes("/tmp/x"):
            raise AssertionError(f"the pod is not as its template says: {found}")

    def harms(self, chance: Random) -> dict[str, NodeHarm]:
        async def one() -> tuple[Pod, int]:
            async with asyncio.timeout(PATIENCE):
                while not (up := [pod for pod in self.pods if pod.pid]):  # noqa: ASYNC110  # pods start
                    await asyncio.sleep(0.1)
            pod = chance.choice(up)
            pid, pod.pid = pod.pid, 0
            return pod, pid

        async def kill() -> Hit:
            pod, pid = await one()
            node, begin_us = pod.node(pid), now_us()
            os.kill(pid, signal.SIGKILL)
            self._later(pod.up(after=pid))
            return Hit(node=node, begin_us=begin_us, end_us=now_us())

        async def freeze() -> Hit:
            pod, pid = await one()
            node, begin_us = pod.node(pid), now_us()
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(FROZEN)
            end_us = now_us()
            os.kill(pid, signal.SIGCONT)
            await pod.up()
            return Hit(node=node, begin_us=begin_us, end_us=end_us)

        async def leave() -> Hit:
            pod, pid = await one()
            node, begin_us = pod.node(pid), now_us()
            await pod.end()
            end_us = now_us()
            await pod.start()
            return Hit(node=node, begin_us=begin_us, end_us=end_us)

        return {"node SIGKILL": kill, "node SIGSTOP": freeze, "preStop and SIGTERM": leave}

    async def spans(self) -> list[tuple[str, Span]]:
        return [(node, span) for pod in self.pods for span in stalls_in(await pod.lines()) for node in pod.started]

    async def settled(self) -> None:
        await asyncio.gather(*self._starting)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self._starting.append(asyncio.get_running_loop().create_task(work))


def played(store: str, namespace: str, folder: Path) -> tuple[Tree, str]:
    """The template of the StatefulSet, and the YAML of the pods that it would make, with what they read."""
    manifests = build(ROOT / "tests" / "support" / "lab" / "pods")
    (template,) = [one.workload["spec"]["template"] for one in manifests.pods]
    spec: Tree = template["spec"]
    own = {**spec, "containers": [_without_probes(one) for one in spec["containers"]]}
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": f"peerjob-{number}"},
            "spec": own,
        }
        for number in range(PODS)
    ]
    objects = [*manifests.of("ConfigMap").values(), *manifests.of("Secret").values(), *pods]
    words = {
        _encoded("LAB_STORE"): _encoded(store),
        "LAB_JOBS": str(ROOT / "tests"),
        "LAB_FOLDER": str(folder),
        "LAB_NAMESPACE": namespace,
    }
    text: str = yaml.safe_dump_all(objects)
    for word, value in words.items():
        text = text.replace(word, value)
    return spec, text


def _without_probes(container: Tree) -> Tree:
    return {name: value for name, value in container.items() if name not in PROBES}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def start_of(pid: int) -> str:
    """When a process began, in ticks since the start of the machine; alike in each namespace."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def rights_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def _status(address: str, port: int, path: str, timeout: float) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0


@asynccontextmanager
async def pods(chance: Random) -> AsyncGenerator[Site]:
    """A Valkey in a container, and three nodes in pods."""
    async with engine() as found:
        await found.clear()  # of a lab that was killed
        await found.build()
        try:
            command = ("valkey-server", "--protected-mode", "no", "--save", "")
            await found.run("run", "--detach", "--name", STORE, *LIMITS, BASE, *command)
            address = await found.run("inspect", STORE, "--format", "{{.NetworkSettings.IPAddress}}")
            url = f"valkey://{address}:6379"
            yield Site(url=url, direct=url, nodes=Crew(found, url))
        finally:
            await found.clear()
