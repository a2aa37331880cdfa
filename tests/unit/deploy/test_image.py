"""The image: what its Dockerfile promises, and that what it is made of is what the project asks for."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from peerjob.version import __version__
from support.deploying import COMPOSE_FILES, JOBD_VARIABLES, ROOT, compose

pytestmark = pytest.mark.one_python

DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = ROOT / "deploy" / "requirements.lock"
BUILD_LOCK = ROOT / "deploy" / "build.lock"


class Instruction(NamedTuple):
    name: str
    text: str


def instructions(dockerfile: Path) -> list[Instruction]:
    lines = [line for line in dockerfile.read_text().splitlines() if line and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in whole.splitlines()]


def stages(dockerfile: Path) -> list[list[Instruction]]:
    """Each begins with its FROM."""
    found: list[list[Instruction]] = []
    for one in instructions(dockerfile):
        if one.name == "FROM":
            found.append([])
        if found:
            found[-1].append(one)
    return found


FINAL = stages(DOCKERFILE)[-1]


def said(name: str) -> str:
    """The last such instruction of what runs."""
    return [one.text for one in FINAL if one.name == name][-1]


def locked(lock: Path) -> dict[str, Requirement]:
    whole = lock.read_text().replace("\\\n", " ")
    lines = [line.split(" --hash=")[0] for line in whole.splitlines() if line and not line.lstrip().startswith("#")]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def test_it_runs_jobd_as_an_unprivileged_user() -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", said("USER")), "a number, so that Kubernetes can see that it is not root"
    assert said("ENTRYPOINT") == '["jobd"]'
    assert said("CMD") == '["run"]'
    assert said("STOPSIGNAL") == "SIGTERM"
    assert said("WORKDIR") == "/app"


def test_it_says_whether_it_lives() -> None:
    assert said("HEALTHCHECK").endswith('CMD ["jobd", "probe", "live"]')


def test_nothing_is_installed_after_root_is_left() -> None:
    names = [one.name for one in FINAL]
    assert "RUN" not in names[names.index("USER") :]


def test_its_variables_are_options_of_jobd() -> None:
    used = set(re.findall(r"\bPEERJOB_\w+", DOCKERFILE.read_text()))
    assert used
    assert used <= JOBD_VARIABLES


def test_every_dependency_is_checked_by_its_hash() -> None:
    installs = [one.text for one in instructions(DOCKERFILE) if one.name == "RUN" and "pip install" in one.text]
    assert installs
    for text in installs:
        assert "--require-hashes" in text or ("--no-index" in text and "--no-deps" in text), text


def test_what_changes_often_comes_after_what_does_not() -> None:
    first = stages(DOCKERFILE)[0]
    assert [one.text.split()[0] for one in first if one.name == "COPY"] == ["deploy/requirements.lock"]


def test_a_plain_builder_will_do() -> None:
    """BuildKit is not needed: no mounts, no heredocs, no links between layers."""
    text = DOCKERFILE.read_text()
    assert not re.search(r"--mount|--link|--chmod|<<|^# *syntax=", text, re.MULTILINE)


def test_every_folder_of_the_package_is_copied() -> None:
    copied = {one.text.split()[0] for one in instructions(DOCKERFILE) if one.name == "COPY"}
    links = {path.name for path in (ROOT / "src" / "peerjob").iterdir() if path.is_symlink()}
    assert links | {"src", "pyproject.toml", "README.md", "LICENSE"} <= {
        name for one in instructions(DOCKERFILE) if one.name == "COPY" for name in one.text.split()[:-1]
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    own = {name for name in copied if not name.startswith("--")}
    assert own - {"deploy/requirements.lock", "deploy/build.lock"} <= allowed
    assert "deploy/*.lock" in allowed


@pytest.mark.parametrize("lock", [LOCK, BUILD_LOCK], ids=lambda path: path.name)
def test_locked_is_one_release_by_its_hashes(lock: Path) -> None:
    blocks = re.split(r"\n(?=\S)", lock.read_text())
    blocks = [block for block in blocks if not block.startswith("#")]
    assert blocks
    for block in blocks:
        assert re.match(r"\S+==\S+ ", block), block
        assert "--hash=sha256:" in block, block
    assert "://" not in lock.read_text(), "it comes from whatever index the builder has"


def brought(package: str, extra: str) -> set[str]:
    """The packages that an extra of an installed package brings."""
    needs = [Requirement(text) for text in requires(package) or ()]
    return {
        need.name
        for need in needs
        if need.marker is not None
        and need.marker.evaluate({"extra": extra})
        and not need.marker.evaluate({"extra": ""})
    }


def test_the_lock_is_what_the_project_asks_for() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    parts = {name for text in extras["cluster"] for name in Requirement(text).extras}
    texts = [
        *project["dependencies"],
        *(text for name in (*parts, "jwt", "otel", "sql", "web") for text in extras[name]),
    ]
    asked = [one for one in map(Requirement, texts) if one.name != project["name"]]
    found = locked(LOCK)
    for one in asked:
        release = found[canonicalize_name(one.name)]
        (pin,) = release.specifier
        assert one.specifier.contains(pin.version, prereleases=True), f"{one} is locked as {release}: make lock"
        for extra in one.extras:
            missing = {canonicalize_name(name) for name in brought(one.name, extra)} - found.keys()
            assert not missing, f"{one.name}[{extra}]: make lock"


def test_the_lock_for_building_is_what_the_build_asks_for() -> None:
    found = locked(BUILD_LOCK)
    for one in map(Requirement, PROJECT["build-system"]["requires"]):
        (pin,) = found[canonicalize_name(one.name)].specifier
        assert one.specifier.contains(pin.version, prereleases=True), f"{one}: make lock"


def test_the_image_has_one_name_everywhere() -> None:
    name = f"peerjob:{__version__}"
    assert stages(ROOT / "examples" / "service" / "Dockerfile")[0][0].text == name
    for file in COMPOSE_FILES:
        services = compose(file)["services"]
        assert {services["node"]["image"], services["ctl"]["image"]} == {name}
