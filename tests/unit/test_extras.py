"""Without an extra, peerjob works, and each feature that needs the extra names the command that installs it.

`make dist` shows the same with environments that really lack the packages.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from peerjob import MissingExtraError
from peerjob.model.extras import Extra, needs_extra

ROOT = Path(__file__).parents[2]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

CORE_ONLY = """
import json, sys
for name in ["cryptography", "django", "etcd3aio", "glide", "jwt", "google.protobuf", "grpc", "grpc_health",
             "grpc_reflection", "jinja2", "opentelemetry", "opentelemetry.context", "prometheus_client",
             "rich", "shellingham", "sqlalchemy", "starlette", "typer", "uvloop"]:
    sys.modules[name] = None
import asyncio
import peerjob, peerjob.testing, peerjob_probe
from peerjob import Job, Node
from peerjob.cli.event_loop import loop_factory
from peerjob.store.drivers import diagnose

def command(name):
    sys.argv[:] = [name, "--help"]
    getattr(peerjob_probe, {"jobd": "main"}.get(name, name))()

async def core():
    assert loop_factory() is None
    Node("redis://h"), Node("redis://h?cluster=true"), Node("valkey://h"), Node("valkeys+sentinel://h/primary")
    async with Node("memory://", jobs=Job("add", lambda a, b: a + b)) as node:
        return await (await node.schedule("add", 1, 2)).result(60)

attempts = json.loads(sys.stdin.readline())
told = {}
for code in attempts:
    try:
        eval(code)
    except peerjob.MissingExtraError as error:
        told[code] = [error.extra, str(error)]
    except SystemExit as end:
        told[code] = [None, str(end)]
print(json.dumps([asyncio.run(core()), told, dir(peerjob)]))
"""
LATER = [
    *(
        "Client",
        "ClientTls",
        "Jwt",
        "ScalerServer",
        "Server",
        "ServerTls",
        "Token",
        "Tokens",
    ),
    *("Metrics", "MetricsServer", "serve_metrics"),
]
NEEDS: dict[str, tuple[str, Extra]] = {
    **{f"peerjob.{name}": (name, "metrics" if "etrics" in name else "grpc") for name in LATER},
    "peerjob.Jwt": ("Jwt", "jwt"),
    "Node('etcd://u:secret@h')": ("etcd://u:***@h", "etcd"),
    "Node('redis://h', coordinator='etcds://h')": ("etcds://h", "etcd"),
    "asyncio.run(diagnose('etcd://h', namespace='x', clock=peerjob.SystemClock()))": ("etcd://h", "etcd"),
    "Node('valkey+glide://h')": ("valkey+glide://h", "valkey"),
    "Node('valkeys+glide+sentinel://:secret@h/primary')": ("valkeys+glide+sentinel://:***@h/primary", "valkey"),
    "Node('memory://').trace()": ("trace()", "otel"),
    "__import__('peerjob.web')": ("peerjob.web", "web"),
    "__import__('peerjob.django')": ("peerjob.django", "django"),
    "__import__('peerjob.sql').sql.OutboxRelay(None)": ("OutboxRelay", "sql"),
    "__import__('peerjob.sql').sql.OutboxRelay.at('sqlite://')": ("OutboxRelay", "sql"),
    "__import__('peerjob.sql').sql.transact(None, None, None)": ("transact", "sql"),
    "command('jobd')": ("jobd", "cli"),
    "command('jobctl')": ("jobctl", "cli"),
}


def test_the_core_works_and_each_feature_names_its_extra() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CORE_ONLY],
        input=json.dumps([*NEEDS]) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    result, errors, names = json.loads(ran.stdout)

    assert result == 3
    for code, (feature, extra) in NEEDS.items():
        found, text = errors[code]
        assert f"{feature} needs peerjob[{extra}]: pip install 'peerjob[{extra}]' (" in text, code
        assert found == extra or "command" in code
    assert not set(LATER) & set(names), "help(peerjob) reads each name that dir() lists"


def test_with_all_extras_every_public_name_is_listed() -> None:
    import peerjob

    assert dir(peerjob) == sorted(peerjob.__all__)
    for name in peerjob.__all__:
        assert getattr(peerjob, name) is not None


def test_the_extras_of_errors_are_those_of_the_project() -> None:
    assert set(get_args(Extra)) <= set(EXTRAS)
    parts = {name for text in EXTRAS["cluster"] for name in Requirement(text).extras}
    assert parts == {"cli", "etcd", "grpc", "metrics", "uvloop"}


def test_the_page_about_the_installation_has_each_extra() -> None:
    page = (ROOT / "docs" / "start" / "install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| ", page, re.MULTILINE)) == set(EXTRAS)


def test_a_defect_of_peerjob_is_not_reported_as_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"peerjob\.nothing"), needs_extra("grpc", "it"):
        import peerjob.nothing  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]  # noqa: F401


def test_the_error_is_an_import_error() -> None:
    with pytest.raises(ImportError) as caught, needs_extra("grpc", "it"):
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc")
    assert isinstance(caught.value, MissingExtraError)
    assert caught.value.missing == "grpc"


@pytest.mark.parametrize(
    ("store", "unused"),
    [
        # redis-py needs email, importlib and tempfile
        ("redis://h", ["croniter", "grpc", "multiprocessing", "pydantic", "sqlite3"]),
        ("etcd://h", ["croniter", "ctypes", "hiredis", "multiprocessing", "pydantic", "redis", "sqlite3"]),
        ("sqlite:///", ["croniter", "ctypes", "email", "grpc", "hiredis", "importlib.metadata", "importlib.resources",
                               "multiprocessing", "pydantic", "redis"]),
        ("memory://", ["croniter", "ctypes", "email", "grpc", "hiredis", "importlib.metadata", "importlib.resources",
                       "multiprocessing", "pydantic", "redis", "sqlite3", "tempfile"]),
    ],
)  # fmt: skip
def test_a_node_imports_no_module_that_its_store_does_not_need(store: str, unused: list[str], tmp_path: Path) -> None:
    """Each package takes half a megabyte or more in every process with a node; the own modules together a third."""
    store = store.replace(":///", f"://{tmp_path}/jobs.db")
    unused = [*unused, "tenacity", "peerjob.model.explain", "peerjob.model.rights", "peerjob.transfer.importing"]
    code = f"import sys, peerjob; peerjob.Node({store!r}); print(sys.modules.keys() & {set(unused)})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"


def test_the_scripts_of_redis_are_loaded_before_redis_py() -> None:
    """The load frees a megabyte, which only later imports use again."""
    code = """
import sys, peerjob
seen = []
def hook(event, args):
    if event == "import" and args[0] == "redis" or event == "open" and str(args[0]).endswith(".lua"):
        seen.append(str(args[0])[-4:])
sys.addaudithook(hook)
peerjob.Node("redis://h")
print(sorted(set(seen)), seen.index("edis") == seen.count(".lua"))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "['.lua', 'edis'] True\n"
