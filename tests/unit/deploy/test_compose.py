"""The compose files: start order, volumes, rights, and that jobd has the options that they set."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from peerjob.cli.daemon.settings import DaemonSettings
from peerjob.model.durations import to_seconds
from support.deploying import COMPOSE_FILES, JOBCTL_VARIABLES, JOBD_VARIABLES, ROOT, Tree, compose

pytestmark = pytest.mark.one_python

MEMBERS = ("etcd-1", "etcd-2", "etcd-3")
STORES = {**dict.fromkeys(MEMBERS, "/var/lib/etcd"), "valkey": "/data", "redis": "/data"}
SERVICES = [
    pytest.param(file, name, id=f"{file.stem}-{name}") for file in COMPOSE_FILES for name in compose(file)["services"]
]
by_file = pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda path: path.stem)


def service(file: Path, name: str) -> Tree:
    found: Tree = compose(file)["services"][name]
    return found


def hosts(file: Path) -> Iterator[str]:
    """Every host in the options of a node."""
    node = service(file, "node")["environment"]
    for variable in ("PEERJOB_STORE", "PEERJOB_COORDINATOR"):
        address = node.get(variable, "").rpartition("@")[2].rpartition("//")[2]
        yield from (one.partition(":")[0] for one in address.split(",") if one)


def test_the_three_documented_files_exist() -> None:
    assert [file.name for file in COMPOSE_FILES] == [
        "docker-compose.etcd.yml",
        "docker-compose.redis.yml",
        "docker-compose.yml",
    ]


@by_file
def test_docker_reads_it_as_we_do(file: Path) -> None:
    """Where there is a docker; the other tests read the files without one."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("there is no docker-compose")
    profiles = ("--profile", "ctl", "--profile", "grafana")
    done = subprocess.run(
        [program, "-f", file, *profiles, "config", "--format", "json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    ours = compose(file)
    for part in ("services", "volumes", "networks"):
        assert theirs.get(part, {}).keys() == ours[part].keys()
    for name, one in ours["services"].items():
        assert theirs["services"][name]["image"] == one["image"]
        assert (theirs["services"][name].get("environment") or {}).keys() == one.get("environment", {}).keys()
        for volume in theirs["services"][name].get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_an_image_has_a_release(file: Path, name: str) -> None:
    _, _, tag = service(file, name)["image"].partition(":")
    assert re.search(r"\d+\.\d+", tag), "the same tomorrow as today"


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_a_container_may_do_little(file: Path, name: str) -> None:
    one = service(file, name)
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["tmpfs"] == ["/tmp"]  # in the container
    assert "privileged" not in one
    assert "container_name" not in one, "there may be several"


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_a_service_says_how_it_is(file: Path, name: str) -> None:
    check = service(file, name)["healthcheck"]
    if name == "ctl":  # a command, which ends
        assert check == {"disable": True}
    else:
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert service(file, name)["restart"] == "unless-stopped"


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_only_this_machine_reaches_it(file: Path, name: str) -> None:
    ports = service(file, name).get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    if name in STORES:
        assert not ports
        assert service(file, name)["networks"] == ["stores"]


@by_file
def test_stores_have_no_way_out(file: Path) -> None:
    networks = compose(file)["networks"]
    assert networks["stores"] == {"internal": True}
    assert networks.keys() == {"clients", "stores"}


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_what_is_kept_is_kept_under_a_name(file: Path, name: str) -> None:
    whole = compose(file)
    volumes = whole["services"][name].get("volumes", [])
    named = {one.split(":")[1]: one.split(":")[0] for one in volumes if not one.startswith(".")}
    assert set(named.values()) <= whole["volumes"].keys()
    if name in STORES:
        assert list(named) == [STORES[name]]
    for bound in (one for one in volumes if one.startswith(".")):
        assert bound.endswith(":ro"), "nothing of the checkout is written to"


@by_file
def test_no_volume_is_shared(file: Path) -> None:
    whole = compose(file)
    used = [
        one.split(":")[0]
        for each in whole["services"].values()
        for one in each.get("volumes", [])
        if not one.startswith(".")
    ]
    assert sorted(used) == sorted(whole["volumes"])


@by_file
def test_nodes_wait_for_the_services_that_they_use(file: Path) -> None:
    waits = service(file, "node")["depends_on"]
    assert set(hosts(file)) == waits.keys()
    assert all(one == {"condition": "service_healthy"} for one in waits.values())
    # `run` scales what its service waits for to the number in the file
    assert "depends_on" not in service(file, "ctl")


@by_file
def test_there_may_be_any_number_of_nodes(file: Path) -> None:
    node = service(file, "node")
    assert node["deploy"]["replicas"] == 3
    assert "PEERJOB_NAME" not in node["environment"], "each has the name of its container"
    assert all(re.fullmatch(r"127\.0\.0\.1::\d+", port) for port in node["ports"]), "no port of the host's for all"


@by_file
def test_nodes_are_given_the_time_that_they_were_promised(file: Path) -> None:
    node = service(file, "node")
    grace = to_seconds(node["environment"].get("PEERJOB_GRACE", DaemonSettings().grace), "grace")
    assert to_seconds(node["stop_grace_period"], "stop_grace_period") >= grace + 5


@by_file
def test_variables_are_options(file: Path) -> None:
    for name, known in (("node", JOBD_VARIABLES), ("ctl", JOBCTL_VARIABLES)):
        assert {key for key in service(file, name)["environment"] if key.startswith("PEERJOB_")} <= known


@by_file
def test_ports_are_those_that_are_listened_on(file: Path) -> None:
    node = service(file, "node")
    listened = {node["environment"][f"PEERJOB_{name}"].rpartition(":")[2] for name in ("LISTEN", "METRICS_LISTEN")}
    published = {port.rpartition(":")[2] for port in node["ports"]}
    assert published <= listened
    assert service(file, "ctl")["environment"]["PEERJOB_ADDRESS"].rpartition(":")[2] in published


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_no_password_is_in_a_list_of_processes(file: Path, name: str) -> None:
    """Compose puts a `${VARIABLE}` into the text of a command, and the shell in the container a `$$VARIABLE`."""
    one = service(file, name)
    for part in ("command", "entrypoint"):
        assert not re.search(r"(?<!\$)\$\{?\w", str(one.get(part, ""))), part
    check = str(one["healthcheck"].get("test", ""))
    assert not re.search(r"(?<!\$)\$\{?\w", check)


@by_file
def test_a_password_may_be_set_in_one_place(file: Path) -> None:
    text = json.dumps(compose(file))
    assert set(re.findall(r"\$\{(\w+PASSWORD):-\w+\}", text)) <= {"STORE_PASSWORD", "GRAFANA_PASSWORD"}


def test_members_of_the_etcd_know_each_other() -> None:
    for name in MEMBERS:
        variables = service(ROOT / "docker-compose.etcd.yml", name)["environment"]
        assert variables["ETCD_NAME"] == name
        assert f"{name}={variables['ETCD_INITIAL_ADVERTISE_PEER_URLS']}" in variables["ETCD_INITIAL_CLUSTER"].split(",")
        assert variables["ETCD_ADVERTISE_CLIENT_URLS"] == f"http://{name}:2379"
        assert variables["ETCD_DATA_DIR"] == STORES[name]


def test_prometheus_looks_where_nodes_tell() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus-compose.yml").read_text())
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    node = service(ROOT / "docker-compose.yml", "node")
    assert found["names"] == ["node"]
    assert found["port"] == int(node["environment"]["PEERJOB_METRICS_LISTEN"].rpartition(":")[2])
    assert set(node["networks"]) & set(service(ROOT / "docker-compose.yml", "prometheus")["networks"])


def test_grafana_is_given_what_it_shows() -> None:
    grafana = service(ROOT / "docker-compose.yml", "grafana")
    (provider,) = yaml.safe_load(
        (ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "peerjob.yml").read_text()
    )["providers"]
    (source,) = yaml.safe_load(
        (ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "peerjob.yml").read_text()
    )["datasources"]
    mounted = {one.split(":")[1] for one in grafana["volumes"]}
    assert f"{provider['options']['path']}/peerjob.json" in mounted
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted
    assert source["url"] == "http://prometheus:9090"
