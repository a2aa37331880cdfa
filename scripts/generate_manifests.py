"""Generate the PrometheusRule of the manifests from the alerts of Prometheus.

kustomize reads no file outside its folder, so the rules exist twice. This script keeps them the same.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

YAML: Any = yaml
"""`Any`, since the annotations of some releases are incomplete."""
ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "deploy" / "prometheus" / "peerjob-alerts.yml"
RULE = ROOT / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"
HEAD = "# Made by `make manifests` from deploy/prometheus/peerjob-alerts.yml.\n"


def rule(alerts: Path) -> str:
    """The text of the rule for the Prometheus operator."""
    spec: dict[str, Any] = YAML.safe_load(alerts.read_text())
    whole = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "peerjob", "labels": {"app.kubernetes.io/name": "peerjob"}},
        "spec": spec,
    }
    return HEAD + str(YAML.safe_dump(whole, sort_keys=False, width=120, allow_unicode=True))


def main() -> int:
    text = rule(ALERTS)
    if sys.argv[1:] == ["--check"]:
        fresh = RULE.exists() and RULE.read_text() == text
        if not fresh:
            print(f"{RULE.relative_to(ROOT)} is not what {ALERTS.relative_to(ROOT)} makes of it: make manifests")
        return not fresh
    RULE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
