"""What the workflows, the hooks and the dev container run is what the Makefile and the scripts offer."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))

pytestmark = pytest.mark.one_python


def jobs(name: str) -> dict[str, Any]:
    by_name: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]
    return by_name


def made(text: str) -> set[str]:
    return {target for line in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", text) for target in line.split()}


def made_by(name: str) -> set[str]:
    """The targets that a workflow makes; a step may have a target for each run of its job."""
    targets: set[str] = set()
    for job in jobs(name).values():
        commands = "\n".join(step.get("run", "") for step in job["steps"])
        targets |= made(commands)
        if "make ${{ matrix.target }}" in commands:
            targets |= {*job["strategy"]["matrix"]["target"]}
    return targets


def needed_by(target: str) -> set[str]:
    (prerequisites,) = re.findall(rf"^{target}: (.*?) ##", MAKEFILE, re.MULTILINE)
    return {*prerequisites.split()}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_targets_that_exist(workflow: Path) -> None:
    assert made_by(workflow.stem)
    assert made_by(workflow.stem) <= TARGETS


def test_ci_runs_what_the_readme_names_and_then_the_rest() -> None:
    """A reader of the README runs the tests of a change with the command that CI begins with."""
    readme = (ROOT / "README.md").read_text()
    (sentences,) = re.findall(r"^From a checkout, .*?(?=\n\n)", readme, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^(?:exec )?(make .*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)

    assert commands == ["make test", "make matrix"]
    assert re.findall(r"`(make .*?)`", sentences) == ["make demo", *commands]


def test_the_workflow_runs_what_ci_runs() -> None:
    asked = needed_by("test") | needed_by("matrix")
    commands = [step.get("run", "") for job in jobs("test").values() for step in job["steps"]]

    # the workflow runs other Pythons beside each other, its servers come with a step of their own, and it runs the
    # checks of the package, whose uv must know the package index, Django's own tests, which come from there, the
    # compose files, which take minutes and want an engine, and the coverage, which judges nothing
    others = {"coverage", "dist", "django-suite", "test-compose"}
    assert made_by("test") == asked - {"unit-others", "servers"} | others
    assert any("install_servers.sh" in command for command in commands)


def test_the_workflow_runs_every_python_that_the_project_promises() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))

    tried = jobs("test")["unit"]["strategy"]["matrix"]["python"]
    assert tried[: len(promised)] == promised, "others are newer, and promised when a maintainer has run them"
    assert set(jobs("test")["integration"]["strategy"]["matrix"]["python"]) == {tried[0], tried[-1]}


def test_the_tests_of_upgrades_find_the_tag_of_the_previous_release() -> None:
    (checkout,) = [step for step in jobs("test")["integration"]["steps"] if "checkout" in step.get("uses", "")]
    assert checkout["with"] == {"fetch-depth": 0}


def test_a_release_comes_with_its_bill_of_materials() -> None:
    steps = jobs("release")["build"]["steps"]
    assert "make sbom" in [step.get("run") for step in steps]
    uploads = [step["with"]["path"] for step in steps if "upload" in step.get("uses", "")]
    assert uploads == ["dist/*", "build/sbom/*"]


def test_only_the_job_that_needs_a_permission_has_it() -> None:
    for workflow in WORKFLOWS:
        assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}, workflow
    assert [name for name, job in jobs("release").items() if job["permissions"].get("id-token")] == ["build", "publish"]
    assert [name for name, job in jobs("site").items() if "permissions" in job] == ["publish"]
    assert not [name for name, job in jobs("test").items() if "permissions" in job]


def test_the_site_that_is_published_is_the_one_that_make_builds() -> None:
    build = jobs("site")["build"]["steps"]
    assert made_by("site") == {"docs"}
    assert [step["with"]["path"] for step in build if "pages-artifact" in step.get("uses", "")] == ["build/site"]


def test_dependabot_renews_the_actions_and_the_packages() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["github-actions", "pip"]


def test_an_action_has_one_release_in_all_workflows_and_its_hash() -> None:
    used = {name for path in WORKFLOWS for name in re.findall(r"uses: (.+)", path.read_text())}
    assert used
    assert len(used) == len({name.partition("@")[0] for name in used}), sorted(used)
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", name)] == []


def test_the_hooks_run_programs_of_the_project() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    lint = MAKEFILE[MAKEFILE.index("\nlint:") : MAKEFILE.index("\npyright:")]

    for entry in entries:
        for name in re.findall(r"\.venv/bin/(\S+)", entry):
            assert f"$(BIN)/{name}" in lint, entry
        for script in re.findall(r"scripts/\w+\.py", entry):
            assert (ROOT / script).is_file(), entry


def test_the_dev_container_installs_by_make() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    command = json.loads(re.sub(r"^//.*$", "", text, flags=re.MULTILINE))["postCreateCommand"]

    assert command == "make servers .venv/.installed"
    assert "\n$(VENV)/.installed:" in MAKEFILE


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_a_form_is_readable(form: Path) -> None:
    content = yaml.safe_load(form.read_text())

    assert "body" in content or content["blank_issues_enabled"] is False
