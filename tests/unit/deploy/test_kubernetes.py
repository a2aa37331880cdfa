"""The manifests: kustomize builds them, Kubernetes knows their fields, and each part finds those that it names."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from peerjob.node.observe.metrics import catalogue
from peerjob.remote.scaler.metadata import read_trigger
from support.deploying import ROOT, Tree
from support.manifests import EXPECTED_SECRETS, FOLDERS, WORKLOADS, Manifests, build, references
from support.scrapes import series_of

pytestmark = pytest.mark.one_python

MIN_VERSION, MAX_VERSION = "1.30", "1.37"
"""Releases of Kubernetes: the first that has everything that is used, and the newest whose schemas are at hand."""

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
POLICIES = {"type": "array", "items": {"required": ["type", "value", "periodSeconds"]}}


def closed(*required: str, **properties: Tree) -> Tree:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT: Tree = {"type": "string"}
NUMBER: Tree = {"type": "integer", "minimum": 0}
CUSTOM: dict[str, Tree] = {
    "ScaledObject": closed(
        "scaleTargetRef",
        "triggers",
        scaleTargetRef=closed("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount={"type": "integer", "minimum": 1},  # KEDA needs a running node to ask
        maxReplicaCount=NUMBER,
        pollingInterval=NUMBER,
        cooldownPeriod=NUMBER,
        advanced=closed(
            horizontalPodAutoscalerConfig=closed(
                behavior=closed(
                    scaleDown=closed(stabilizationWindowSeconds=NUMBER, policies=POLICIES),
                )
            )
        ),
        triggers={"type": "array", "minItems": 1, "items": closed("type", "metadata", type=TEXT, metadata=TEXTS)},
    ),
    "ServiceMonitor": closed(
        "selector",
        "endpoints",
        selector=closed("matchLabels", matchLabels=TEXTS),
        endpoints={
            "type": "array",
            "minItems": 1,
            "items": closed(
                "port",
                port=TEXT,
                path=TEXT,
                interval=TEXT,
                relabelings={
                    "type": "array",
                    "items": closed(
                        action={"enum": ["replace"]},
                        sourceLabels={"type": "array", "items": TEXT},
                        targetLabel=TEXT,
                        replacement=TEXT,
                    ),
                },
            ),
        },
    ),
    "PrometheusRule": closed(
        "groups",
        groups={
            "type": "array",
            "minItems": 1,
            "items": closed(
                "name",
                "rules",
                name=TEXT,
                rules={
                    "type": "array",
                    "minItems": 1,
                    "items": closed(
                        "alert", "expr", alert=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS, **{"for": TEXT}
                    ),
                },
            ),
        },
    ),
}
"""What we use of the kinds that operators bring, as their documentation has it."""

NOT_IN_A_NAMESPACE = {"Namespace"}
STORES = {"etcd", "valkey"}
"""The pods that open no connection of their own."""

by_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


@pytest.mark.matrix("the schemas of Kubernetes are 100 MB; no change of an engine can break a manifest")
@pytest.mark.parametrize("release", [MIN_VERSION, MAX_VERSION])
def test_kubernetes_knows_every_field(release: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the developer's own Python has it")
    every = [one for folder in FOLDERS for one in build(folder).objects if one["kind"] not in CUSTOM]
    for one in {json.dumps(one, sort_keys=True): one for one in every}.values():
        kubernetes_validate.validate(one, release, strict=True)


@by_folder
def test_operators_know_every_field(folder: Path) -> None:
    # its import takes 1.4 s of CPU time, which each process that only collects the tests would spend, too
    import jsonschema

    for one in build(folder).objects:
        if one["kind"] in CUSTOM:
            jsonschema.validate(one["spec"], CUSTOM[one["kind"]])


def test_every_folder_is_looked_at() -> None:
    assert {folder.name: [pods.name for pods in build(folder).pods] for folder in FOLDERS} == WORKLOADS


def test_operators_are_looked_at() -> None:
    built = {one["kind"] for folder in FOLDERS for one in build(folder).objects}
    assert set(CUSTOM) <= built


@by_folder
def test_all_is_in_one_namespace(folder: Path) -> None:
    built = build(folder)
    namespaces = {one["metadata"].get("namespace") for one in built.objects if one["kind"] not in NOT_IN_A_NAMESPACE}
    expected: set[str | None] = {*built.of("Namespace")} or {None}
    assert namespaces == expected
    for one in built.of("Namespace").values():
        assert one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@by_folder
def test_names_are_given_once(folder: Path) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in build(folder).objects]
    assert len(names) == len(set(names))


@by_folder
def test_a_service_leads_to_ports_of_pods(folder: Path) -> None:
    built = build(folder)
    for name, service in built.of("Service").items():
        (pods,) = built.selected(service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert pods.ports[port["targetPort"]] == port["port"] or port["port"] == 80, name


@by_folder
def test_pods_of_a_set_have_addresses(folder: Path) -> None:
    built = build(folder)
    for one in built.of("StatefulSet").values():
        service = built.of("Service")[one["spec"]["serviceName"]]
        assert service["spec"]["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
    if "peerjob" in built.of("StatefulSet"):
        headless = built.of("Service")[built.of("StatefulSet")["peerjob"]["spec"]["serviceName"]]
        assert headless["spec"]["clusterIP"] == "None"


@by_folder
def test_selectors_match_labels(folder: Path) -> None:
    built = build(folder)
    for pods in built.pods:
        assert pods.selected_by(pods.workload["spec"]["selector"]["matchLabels"])
        for spread in pods.spec.get("topologySpreadConstraints", []):
            assert pods.selected_by(spread["labelSelector"]["matchLabels"])
    for budget in built.of("PodDisruptionBudget").values():
        assert built.selected(budget["spec"]["selector"]["matchLabels"])


@by_folder
def test_work_that_has_peers_is_not_evicted_at_once(folder: Path) -> None:
    built = build(folder)
    covered = [
        pods.name
        for budget in built.of("PodDisruptionBudget").values()
        for pods in built.selected(budget["spec"]["selector"]["matchLabels"])
    ]
    for pods in built.pods:
        if pods.workload["spec"].get("replicas") != 1:
            assert pods.name in covered


@by_folder
def test_a_pod_accepts_only_the_listed_traffic(folder: Path) -> None:
    built = build(folder)
    covered: set[str] = set()
    for policy in built.of("NetworkPolicy").values():
        (pods,) = built.selected(policy["spec"]["podSelector"]["matchLabels"])
        covered.add(pods.name)
        assert "Ingress" in policy["spec"]["policyTypes"]
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= pods.ports.keys()
            if "from" not in rule:
                assert {port["port"] for port in rule["ports"]} == {"http"}, "open to all is what the web serves"
    assert covered == {pods.name for pods in built.pods}


@by_folder
def test_a_pod_reaches_only_names_and_the_store(folder: Path) -> None:
    built = build(folder)
    stores = {pods.ports["client" if pods.name == "etcd" else pods.name] for pods in built.pods if pods.name in STORES}
    closed: set[str] = set()
    for policy in built.of("NetworkPolicy").values():
        if "Egress" not in policy["spec"]["policyTypes"]:
            continue
        (pods,) = built.selected(policy["spec"]["podSelector"]["matchLabels"])
        closed.add(pods.name)
        rules = policy["spec"].get("egress", [])
        assert all(rule.get("ports") for rule in rules), "a rule without ports opens all of them"
        reached = {(port["protocol"], port["port"]) for rule in rules for port in rule["ports"]}
        if pods.name not in STORES:
            usual = {("TCP", port) for port in (6379, 6380, 26379, 2379)}
            assert reached == {("UDP", 53), ("TCP", 53)} | usual
            assert stores <= {port for _, port in usual}
        else:
            assert not reached
    assert closed == {pods.name for pods in built.pods}


def test_the_document_shows_how_jobs_reach_more() -> None:
    document = (ROOT / "docs" / "kubernetes.md").read_text()
    (example,) = re.findall(r"```yaml\n(apiVersion: networking.*?)```", document, re.DOTALL)
    policy = yaml.safe_load(example)
    (pods,) = build(ROOT / "k8s" / "overlays" / "production").selected(policy["spec"]["podSelector"]["matchLabels"])
    assert pods.name == "peerjob"
    assert policy["spec"]["policyTypes"] == ["Egress"]


@by_folder
def test_every_port_is_open_to_a_peer(folder: Path) -> None:
    built = build(folder)
    for pods in built.pods:
        open_to = {
            port["port"]
            for policy in built.of("NetworkPolicy").values()
            if pods.selected_by(policy["spec"]["podSelector"]["matchLabels"])
            for rule in policy["spec"]["ingress"]
            for port in rule["ports"]
        }
        assert open_to == pods.ports.keys()


@by_folder
def test_what_pods_want_is_there(folder: Path) -> None:
    built = build(folder)
    missing: set[str] = set()
    for pods in built.pods:
        account = pods.spec.get("serviceAccountName")
        assert account is None or account in built.of("ServiceAccount")
        for kind, name, key in references(pods):
            found = built.of(kind).get(name)
            if found is None and kind == "Secret":
                missing.add(name)
            else:
                assert found is not None, f"{kind} {name}"
                assert key is None or key in found["data"]
    assert missing == EXPECTED_SECRETS.get(folder.name, set())


@by_folder
def test_configuration_holds_no_secret(folder: Path) -> None:
    for name, one in build(folder).of("ConfigMap").items():
        for key, value in one["data"].items():
            assert not re.search(r"://[^/\s]*:[^/\s]*@", value), f"{name}: {key}"
            assert not re.search(r"\bpj_\w{20,}|BEGIN [A-Z ]*PRIVATE KEY", value), f"{name}: {key}"
            assert not re.search(r"PASSWORD|TOKEN$|SECRET", key), f"{name}: {key}"


@by_folder
def test_an_autoscaler_has_its_target_for_itself(folder: Path) -> None:
    built = build(folder)
    scalers = [*built.of("HorizontalPodAutoscaler").values(), *built.of("ScaledObject").values()]
    targets = [one["spec"]["scaleTargetRef"] for one in scalers]
    for target in targets:
        workload = built.of(target["kind"])[target["name"]]
        assert "replicas" not in workload["spec"], "applying again would undo what the autoscaler did"
    assert len(targets) == len({one["name"] for one in targets})


@by_folder
def test_keda_finds_the_scaler(folder: Path) -> None:
    built = build(folder)
    for one in built.of("ScaledObject").values():
        (trigger,) = one["spec"]["triggers"]
        name, namespace, rest = trigger["metadata"]["scalerAddress"].split(".", 2)
        service = built.of("Service")[name]
        assert namespace == service["metadata"]["namespace"]
        assert rest == f"svc:{service['spec']['ports'][0]['port']}"
        assert read_trigger(trigger["metadata"], 0).jobs_per_replica == 10


@by_folder
def test_prometheus_finds_the_nodes(folder: Path) -> None:
    built = build(folder)
    for one in built.of("ServiceMonitor").values():
        labels = one["spec"]["selector"]["matchLabels"]
        (service,) = [
            each for each in built.of("Service").values() if labels.items() <= each["metadata"]["labels"].items()
        ]
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {each["port"] for each in one["spec"]["endpoints"]} <= ports
        (job,) = [
            each["replacement"]
            for endpoint in one["spec"]["endpoints"]
            for each in endpoint["relabelings"]
            if each["targetLabel"] == "job"
        ]
        assert job.startswith("peerjob"), "the alerts ask for such jobs"


def test_the_alerts_are_those_of_prometheus() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_manifests.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_adapter_tells_what_the_autoscaler_asks_for() -> None:
    component = ROOT / "k8s" / "components" / "hpa"
    (rule,) = yaml.safe_load((component / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    scaler = build(ROOT / "k8s" / "overlays" / "production").of("HorizontalPodAutoscaler")["peerjob"]
    assert [one["external"]["metric"]["name"] for one in scaler["spec"]["metrics"]] == [rule["name"]["as"]]
    known = {name for metric in catalogue.ALL for name in series_of(metric)}
    assert set(re.findall(r"peerjob_\w+", f"{rule['seriesQuery']} {rule['metricsQuery']}")) <= known


def own_overlay(folder: Path, text: str) -> Manifests:
    """What an overlay of a user's own makes, which names ours by ../../k8s."""
    folder.mkdir()
    to_root = Path(*[".."] * len(folder.resolve().parts[1:]), *ROOT.parts[1:])
    (folder / "kustomization.yaml").write_text(text.replace("../../k8s", f"{to_root}/k8s"))
    return build(folder)


def test_names_and_namespace_may_be_others(tmp_path: Path) -> None:
    """An overlay of a user's own says so, and everything still finds the rest."""
    mine = tmp_path / "mine"
    built = own_overlay(mine, "resources: [../../k8s/overlays/production]\nnamespace: shop\nnamePrefix: shop-\n")
    assert set(built.of("Namespace")) == {"shop"}
    (pods,) = built.pods
    assert pods.name == "shop-peerjob"
    for check in (
        test_all_is_in_one_namespace,
        test_a_service_leads_to_ports_of_pods,
        test_pods_of_a_set_have_addresses,
        test_selectors_match_labels,
        test_an_autoscaler_has_its_target_for_itself,
        test_prometheus_finds_the_nodes,
    ):
        check(mine)
    assert {name for kind, name, _ in references(pods) if kind == "Secret"} == EXPECTED_SECRETS["production"]


def test_the_overlay_of_the_document_does_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    overlay, _, patches = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    built = own_overlay(tmp_path / "shop", overlay + patches)
    (pods,) = built.pods
    (container,) = pods.containers
    assert pods.workload["metadata"]["namespace"] == "shop"
    assert container["image"].endswith("/shop-jobs:2.0.0")
    assert built.environment(container)["PEERJOB_JOBS"] == "shop.jobs"
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "600s"
    assert pods.spec["terminationGracePeriodSeconds"] == 640
