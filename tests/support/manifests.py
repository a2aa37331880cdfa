"""The manifests of k8s/, as kustomize builds them, and how their parts find each other."""

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from support.deploying import ROOT, Tree, program

FOLDERS = [ROOT / "k8s" / "base", *sorted((ROOT / "k8s" / "overlays").iterdir())]
WORKLOADS = {
    "base": ["peerjob"],
    "dev": ["etcd", "peerjob", "valkey"],
    "dev-keda": ["etcd", "peerjob", "valkey"],
    "embedded": ["words"],
    "production": ["peerjob"],
}
"""What makes pods, by the folder's name."""
EXPECTED_SECRETS = {
    "base": {"peerjob-store"},
    "production": {"peerjob-store", "peerjob-tls", "peerjob-tokens"},
    "embedded": {"words-store"},
}
"""Objects that a user must create before an overlay, by the overlay's name."""


class Pods(NamedTuple):
    """A workload and what it makes pods of."""

    name: str
    workload: Tree
    spec: Tree
    labels: dict[str, str]

    @property
    def containers(self) -> list[Tree]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for one in self.containers for port in one.get("ports", [])}

    def selected_by(self, selector: Tree) -> bool:
        return selector.items() <= self.labels.items()


@functools.cache
def build(folder: Path) -> "Manifests":
    """Everything that `kubectl apply -k folder` would apply."""
    kubectl = program("kubectl", package="kubernetes-client")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Manifests([one for one in yaml.safe_load_all(done.stdout) if one])


class Manifests:
    """The objects of one build."""

    def __init__(self, objects: list[Tree]) -> None:
        self.objects = objects

    def of(self, kind: str) -> dict[str, Tree]:
        """Those of a kind, by name."""
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    @property
    def pods(self) -> list[Pods]:
        return [
            Pods(name, one, one["spec"]["template"]["spec"], one["spec"]["template"]["metadata"]["labels"])
            for kind in ("Deployment", "StatefulSet")
            for name, one in self.of(kind).items()
        ]

    def selected(self, selector: Tree) -> list[Pods]:
        return [one for one in self.pods if one.selected_by(selector)]

    def environment(self, container: Tree) -> dict[str, str]:
        """The environment of a container; a value that only the cluster knows is ""."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.of("ConfigMap")[source["configMapRef"]["name"]]["data"]
        return found | {one["name"]: one.get("value", "") for one in container.get("env", [])}


def references(pods: Pods) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key of every ConfigMap and Secret that pods want."""
    for volume in pods.spec.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], None
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], None
    for container in pods.containers:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"], None
        for one in container.get("env", []):
            if wanted := one.get("valueFrom", {}).get("secretKeyRef"):
                yield "Secret", wanted["name"], wanted["key"]
