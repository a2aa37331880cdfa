"""The pods of the manifests: what they may do, how they are asked, how long they have, and what jobd makes of it."""

import re
from pathlib import Path

import pytest
from typer.main import get_group

from peerjob.cli import jobd
from peerjob.cli.console import run
from peerjob.cli.daemon import daemon
from peerjob.cli.daemon.errors import error_report
from peerjob.cli.daemon.settings import DaemonSettings
from peerjob.model.durations import to_seconds
from peerjob.node.observe.metrics.server import PROBES
from peerjob.version import __version__
from support.deploying import JOBCTL_VARIABLES, JOBD_VARIABLES, ROOT, Tree
from support.manifests import FOLDERS, WORKLOADS, Manifests, Pods, build

pytestmark = pytest.mark.one_python

LEAVING = 10
"""Seconds that a node has after its grace, to hand back and to say good-bye."""
EMBEDDED_GRACE = 5 + 20
"""Seconds of the node in an application, and of the requests that it still answers."""
KINDS = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
ETCD_PATHS = {"/livez", "/readyz"}

EVERY = [(folder, name) for folder in FOLDERS for name in WORKLOADS[folder.name]]
every_pod = pytest.mark.parametrize(("folder", "name"), EVERY, ids=[f"{folder.name}-{name}" for folder, name in EVERY])
every_node = pytest.mark.parametrize(
    "folder", [folder for folder, name in EVERY if name == "peerjob"], ids=lambda path: path.name
)


def pods_of(folder: Path, name: str) -> Pods:
    (found,) = [one for one in build(folder).pods if one.name == name]
    return found


def node(folder: Path) -> tuple[Manifests, Pods, Tree]:
    pods = pods_of(folder, "peerjob")
    (container,) = pods.containers
    return build(folder), pods, container


@every_pod
def test_it_runs_as_an_unprivileged_user(folder: Path, name: str) -> None:
    """The rules of the pod security standard "restricted", and a file system that cannot be written to."""
    pods = pods_of(folder, name)
    context = pods.spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pods.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for container in pods.containers:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in own
        assert not any("hostPort" in port for port in container.get("ports", []))
    allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected"}
    assert all(volume.keys() - {"name"} <= allowed for volume in pods.spec.get("volumes", []))


@every_pod
def test_it_gets_no_credentials_of_the_cluster(folder: Path, name: str) -> None:
    spec = pods_of(folder, name).spec
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a Service named peerjob would set options of jobctl"


@every_pod
def test_it_takes_so_much_and_no_more(folder: Path, name: str) -> None:
    pods = pods_of(folder, name)
    for container in pods.containers:
        for part in ("requests", "limits"):
            assert container["resources"][part].keys() == {"cpu", "memory"}
    for volume in pods.spec.get("volumes", []):
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


@every_pod
def test_it_is_the_same_tomorrow(folder: Path, name: str) -> None:
    for container in pods_of(folder, name).containers:
        assert re.search(r":v?\d+\.\d+\.\d+$", container["image"])


@every_pod
def test_what_is_mounted_is_there(folder: Path, name: str) -> None:
    pods = pods_of(folder, name)
    claims = pods.workload["spec"].get("volumeClaimTemplates", [])
    volumes = {one["name"] for one in pods.spec.get("volumes", [])} | {one["metadata"]["name"] for one in claims}
    mounts = [mount for container in pods.containers for mount in container["volumeMounts"]]
    assert {one["name"] for one in mounts} == volumes
    assert len({one["mountPath"] for one in mounts}) == len(mounts)
    secret = {one["name"] for one in pods.spec.get("volumes", []) if "secret" in one}
    assert all(one.get("readOnly") for one in mounts if one["name"] in secret)


@every_pod
def test_it_is_asked_what_it_answers(folder: Path, name: str) -> None:
    pods = pods_of(folder, name)
    for container in pods.containers:
        environment = build(folder).environment(container)
        for kind, path in KINDS.items():
            probe = container[kind]
            if "exec" in probe:
                assert probe["exec"]["command"]
                continue
            asked = probe["httpGet"]
            port = pods.ports[asked["port"]]
            if "PEERJOB_METRICS_LISTEN" in environment:
                assert asked["path"] == path
                assert path in PROBES
                assert environment["PEERJOB_METRICS_LISTEN"] == f"0.0.0.0:{port}", "the kubelet is not on loopback"
            else:
                assert asked["path"] in ETCD_PATHS
                assert environment["ETCD_LISTEN_CLIENT_URLS"] == f"http://0.0.0.0:{port}"


@every_pod
def test_it_has_the_time_that_it_was_promised(folder: Path, name: str) -> None:
    pods = pods_of(folder, name)
    (container,) = pods.containers
    before: Tree = container.get("lifecycle", {}).get("preStop", {})
    seconds: float = before.get("sleep", {}).get("seconds", 0)
    if command := before.get("exec", {}).get("command"):
        seconds = to_seconds(command[command.index("--timeout") + 1], "--timeout")
    environment = build(folder).environment(container)
    if name == "peerjob":
        seconds += to_seconds(environment.get("PEERJOB_GRACE", DaemonSettings().grace), "--grace")
    elif "PEERJOB_STORE" in environment:
        seconds += EMBEDDED_GRACE
    assert pods.spec["terminationGracePeriodSeconds"] >= seconds + LEAVING


@every_node
def test_a_node_drains_before_it_gets_sigterm(folder: Path) -> None:
    _, _, container = node(folder)
    program, verb, *arguments = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "jobd"
    with get_group(jobd.app).commands[verb].make_context(verb, arguments) as parsed:
        assert parsed.params["pid"] == 1


@every_node
def test_jobd_accepts_the_options_of_the_pod(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very parser of jobd is given the pod's variables."""
    built, pods, container = node(folder)
    environment = built.environment(container)
    assert environment.keys() <= JOBD_VARIABLES | JOBCTL_VARIABLES
    url = tmp_path / "url"
    url.write_text("redis://store:6379\n")
    taken: list[DaemonSettings] = []

    def take(settings: DaemonSettings) -> int:
        taken.append(settings)
        return 0

    monkeypatch.setattr(daemon, "run", take)
    for name, value in (environment | {"PEERJOB_NAME": "peerjob-0", "PEERJOB_STORE_FILE": str(url)}).items():
        monkeypatch.setenv(name, value)

    assert run(jobd.app, "jobd", ["run"], error_report) == 0

    (settings,) = taken
    assert settings.name == "peerjob-0"
    assert settings.store == "redis://store:6379"
    assert settings.listen == f"0.0.0.0:{pods.ports['grpc']}"
    assert settings.log_format.value == "json"
    guarded = settings.tls is not None and (settings.tokens_file is not None or settings.tls_client_ca is not None)
    assert guarded or settings.insecure or folder.name == "base", "else it would refuse to start"
    assert guarded is (folder.name == "production")
    if "scaler" in pods.ports:
        assert environment["PEERJOB_SCALER_LISTEN"] == f"0.0.0.0:{pods.ports['scaler']}"


@every_node
def test_a_node_finds_its_files(folder: Path) -> None:
    """Every file that a variable names lies in something that is mounted."""
    built, _, container = node(folder)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = {value for value in built.environment(container).values() if value.startswith("/")}
    assert files
    assert {str(Path(one).parent) for one in files} <= mounted


@every_node
def test_a_node_has_the_name_of_its_pod(folder: Path) -> None:
    _, pods, container = node(folder)
    (name,) = [one for one in container["env"] if one["name"] == "PEERJOB_NAME"]
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert pods.workload["spec"]["podManagementPolicy"] == "Parallel"


@every_node
def test_a_node_that_is_new_has_joined_before_the_next_one_goes(folder: Path) -> None:
    _, pods, _ = node(folder)
    assert pods.workload["spec"]["minReadySeconds"] > to_seconds(DaemonSettings().lease_ttl, "--lease-ttl") + 1


def test_the_image_is_the_one_that_is_built() -> None:
    _, _, container = node(ROOT / "k8s" / "base")
    assert container["image"] == f"peerjob:{__version__}"


def test_the_application_reads_its_environment() -> None:
    (container,) = pods_of(ROOT / "k8s" / "overlays" / "embedded", "words").containers
    program = (ROOT / "examples" / "fastapi_app.py").read_text()
    for one in container["env"]:
        assert f'"{one["name"]}"' in program
