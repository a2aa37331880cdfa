"""What stored options may name, where they are scheduled and where they run."""

from __future__ import annotations

import fractions
import pydoc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peerjob import Job, JobFailed, Node, OptionError, State
from peerjob.model.policy import load_overrides, store_overrides
from peerjob.model.references import StoredReferenceError, Trusted
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.testing.clock import VirtualClock
from support.factories import running_nodes

HERE = Trusted(modules=frozenset({__name__}))


def work() -> int:
    return 7


def callback(instance: object, result: object) -> None: ...


class Callbacks:
    @staticmethod
    def callback(instance: object, result: object) -> None: ...


class OwnError(Exception): ...


WORK = Job("work", work)
PRINTS_ITS_KIND = "from peerjob import job\n@job\ndef work(): ...\nprint(work.kind)\n"
PIPE: dict[str, Any] = {"on_complete": pydoc.locate}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with functions that nothing has imported."""
    name = "callbacks_of_a_test"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("import os, subprocess\n")
    (tmp_path / name / "inner.py").write_text(
        "import os\ndef callback(instance, result): ...\nclass Lazy(Exception): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[loaded]


@pytest.mark.parametrize(
    "options",
    [
        {"on_complete": callback},
        {"on_terminate": Callbacks.callback},
        {"on_state_change": callback},
        {"backoff": callback},
        {"retry_on": (ValueError, OwnError, OptionError, callback)},
        {"no_retry_on": (KeyError,)},
    ],
)
def test_functions_of_job_modules_and_classes_of_errors_travel(options: dict[str, Any]) -> None:
    stored = store_overrides(options, None, HERE)
    assert load_overrides(stored, None, HERE) == options


def test_a_function_of_this_process_is_kept_once_and_each_other_one_beside_it() -> None:
    local: dict[str, Any] = {}

    def one(instance: object, result: object) -> None: ...
    def other(instance: object, result: object) -> None: ...

    options = {"on_complete": one, "on_terminate": other, "on_state_change": one}
    stored = store_overrides(options, local, HERE)
    again = store_overrides({"on_complete": other}, local, HERE)
    assert [*local.values()] == [one, other]
    assert stored["on_complete"] == stored["on_state_change"]
    assert stored["on_terminate"] == again["on_complete"]
    assert load_overrides(stored, local, HERE) == options


@pytest.mark.parametrize(
    "options",
    [
        {"on_complete": pydoc.locate},
        {"on_complete": OwnError.__mro__[1]},
        {"on_terminate": fractions.Fraction},
        {"backoff": pydoc.locate},
        {"retry_on": (pydoc.locate,)},
    ],
)
def test_functions_of_other_modules_are_refused_when_they_are_scheduled(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="allow_references="):
        store_overrides(options, None, HERE)


@pytest.mark.parametrize(
    ("option", "reference"),
    [
        ("on_complete", "pydoc:locate"),
        ("on_complete", "builtins:exec"),
        ("on_complete", "builtins:ValueError"),
        ("backoff", "os:system"),
        ("backoff", "builtins:ValueError"),
        ("on_complete", f"{__name__}:sys.exit"),
        ("on_complete", f"{__name__}:pydoc.locate"),
        ("on_complete", f"{__name__}:running_nodes"),
        ("on_complete", f"{__name__}:callback.__globals__"),
        ("on_complete", f"{__name__}:nothing"),
        ("on_complete", f"{__name__}:"),
        ("on_complete", ""),
        ("on_complete", ":"),
    ],
)
def test_what_is_not_of_a_job_module_is_not_resolved(option: str, reference: str) -> None:
    with pytest.raises(StoredReferenceError):
        load_overrides({option: reference}, None, HERE)
    with pytest.raises(StoredReferenceError):
        load_overrides({"retry_on": [reference if reference != "builtins:ValueError" else "os:system"]}, None, HERE)


def test_nothing_else_is_imported(package: str) -> None:
    for option in ("on_complete", "on_terminate", "on_state_change", "backoff"):
        with pytest.raises(StoredReferenceError):
            load_overrides({option: f"{package}.inner:callback"}, None, HERE)
    with pytest.raises(StoredReferenceError):
        load_overrides({"retry_on": [f"{package}.inner:Lazy"]}, None, HERE)
    assert package not in sys.modules


def test_allowed_packages_are_imported(package: str) -> None:
    trusted = Trusted(prefixes=(package,))
    found = load_overrides({"on_complete": f"{package}.inner:callback"}, None, trusted)["on_complete"]
    assert found.__module__ == f"{package}.inner"
    for reference in (f"{package}.inner:os.system", f"{package}:subprocess.run", f"{package}.missing:callback"):
        with pytest.raises(StoredReferenceError):
            load_overrides({"on_complete": reference}, None, trusted)
    with pytest.raises(StoredReferenceError):
        load_overrides({"on_complete": f"{package}_other:callback"}, None, trusted)
    assert load_overrides({"retry_on": [f"{package}.inner:Lazy"]}, None, HERE)["retry_on"][0].__name__ == "Lazy"


def test_a_node_refuses_them_at_schedule() -> None:
    node = Node("redis://127.0.0.1:1", jobs=WORK)
    with pytest.raises(OptionError, match="on_complete: expected a function of a module that defines jobs"):
        node._call_encoder.new(WORK.with_options(**PIPE).call())  # pyright: ignore[reportPrivateUsage]
    node = Node("redis://127.0.0.1:1", jobs=WORK, allow_references=["pydoc"])
    node._call_encoder.new(WORK.with_options(**PIPE).call())  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("given", ["pydoc", ["not a module"], [""]])
def test_names_of_modules_are_checked(given: Any) -> None:
    with pytest.raises(OptionError, match="allow_references"):
        Node(allow_references=given)


async def test_a_misfit_goes_to_a_peer_and_ends_where_there_is_none(clock: VirtualClock) -> None:
    spec = encode(Spec(args=encode_arguments((), {}), overrides={"on_complete": "pydoc:locate"}))
    async with running_nodes(clock, "one", "two", jobs=WORK) as (one, two):
        new = one._call_encoder.new(WORK.call())  # pyright: ignore[reportPrivateUsage]
        hostile = type(new)(id=new.id, kind="work", spec=spec)
        assert one._runtime is not None  # pyright: ignore[reportPrivateUsage]
        await one._runtime.enqueuer.add(hostile)  # pyright: ignore[reportPrivateUsage]
        await clock.advance(2)
        found = await two.lookup_instance(hostile.id)
        assert not found.state.is_final
        notes = [entry.note for entry in await found.history()]
        assert any("does not fit here; " in note for note in notes)
        await clock.advance(1800)
        found = await two.lookup_instance(hostile.id)
        assert found.state is State.TERMINATED
        with pytest.raises(JobFailed, match="pydoc:locate cannot be used here"):
            found.outcome()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["-m", "shop.orders"], "shop.orders:work"), (["-m", "shop"], "shop:work"), (["shop/orders.py"], "orders:work")],
)
def test_a_job_of_a_running_program_has_the_kind_of_the_module_that_others_import(
    arguments: list[str], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    for name in ("orders", "__main__"):
        (tmp_path / "shop" / f"{name}.py").write_text(PRINTS_ITS_KIND)

    ran = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )

    assert ran.stdout == f"{kind}\n"
