"""Callables and classes that are stored by name, so that another process can find them."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import DecodeError, OptionError

Reference = str
_LOCAL = "local:"


def import_path(value: Any) -> str | None:
    """Return `module:qualname` of an importable object, or None."""
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None)
    if not module or not qualname or "<" in qualname:
        return None
    named: Any = sys.modules.get(module)
    for part in qualname.split("."):
        named = getattr(named, part, None)
    if named is value or getattr(named, "executor", None) is value:
        return f"{module_name(module)}:{qualname}"
    return None


def module_name(module: str) -> str:
    """Return the name by which another process imports a module; for `__main__`, the name of its file."""
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(sys.modules["__main__"], "__file__", None)
    return str(file).replace("\\", "/").rpartition("/")[2].removesuffix(".py") if file else module


def misnamed_script() -> str | None:
    """Return the file of the running script if an import of its name does not find it, else None."""
    main = sys.modules["__main__"]
    file, name = getattr(main, "__file__", None), module_name("__main__")
    if not file or getattr(main, "__spec__", None) is not None:
        return None
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = None if "." in name else importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).samefile(file):
            return None
    return str(file)


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Modules whose functions a stored option may name. Only these are imported for an option."""

    modules: frozenset[str] = frozenset()
    """Names of modules that define the functions of jobs."""
    prefixes: tuple[str, ...] = ()
    """Names of modules and packages. Everything inside a named package is trusted too."""

    def holds(self, module: str) -> bool:
        """Whether an option may name functions of this module."""
        below = f"{module}."
        return module in self.modules or any(below.startswith(f"{prefix}.") for prefix in self.prefixes)


def to_stored(value: Any, option: str, local: dict[str, Any] | None, trusted: Trusted) -> Reference:
    """Return the reference to store; raises OptionError if no node may resolve it and `local` is None."""
    path = import_path(value)
    if path is not None and not path.startswith("__main__:"):
        if _is_harmless(value, option) or trusted.holds(path.partition(":")[0]):
            return path
        expected = "a function of a module that defines jobs, or of one that allow_references= of the nodes names"
    else:
        expected = "something importable by name when given per schedule (no lambda, closure or object)"
    if local is None:
        raise OptionError(option, value, expected)
    reference = f"{_LOCAL}{len(local)}"
    for known, kept in local.items():
        if kept is value:
            return known
    local[reference] = value
    return reference


def from_stored(reference: Reference, option: str, local: Mapping[str, Any] | None, trusted: Trusted) -> Any:
    """Resolve a reference. Imports only trusted modules; raises StoredReferenceError for others."""
    if reference.startswith(_LOCAL):
        if local is None or reference not in local:
            raise DecodeError(f"{reference} lives in another process")
        return local[reference]
    module = reference.partition(":")[0]
    if _is_harmless(value := _imported(reference), option):
        return value
    if not trusted.holds(module):
        raise StoredReferenceError(
            f"{option}: {reference} cannot be used here: its module defines no job of this node, and "
            "allow_references= does not name it"
        )
    try:
        if module != module_name("__main__"):
            importlib.import_module(module)
        value = None if _imported(reference) is None else resolve(reference)
    # importing a module runs the user's code, which can raise any error
    except Exception as error:
        raise StoredReferenceError(f"{option}: cannot import {reference}: {type(error).__name__}: {error}") from error
    if value is None or import_path(value) != reference:
        raise StoredReferenceError(f"{option}: {module} defines no {reference.partition(':')[2]}")
    return value


class StoredReferenceError(DecodeError):
    """A stored option names a function that this node does not trust, or a class that it has not imported."""


def resolve_imported(path: str) -> Any:
    """Resolve `module:qualname` in a module that is already imported; raises DecodeError."""
    value = _imported(path)
    if value is None:
        raise DecodeError(f"{path} is not imported here")
    return value


def _imported(path: str) -> Any:
    """Resolve a name without running code of its module, such as a `__getattr__`; None if the name does not exist."""
    module, _, qualname = path.partition(":")
    value: Any = sys.modules.get("__main__" if module == module_name("__main__") else module)
    for part in qualname.split("."):
        value = inspect.getattr_static(value, part, None)
        # the path leads through another module, so the module that the path begins with does not define the object
        if isinstance(value, ModuleType):
            return None
    return value


def _is_harmless(value: Any, option: str) -> bool:
    """Whether peerjob only compares errors with this class, or only computes waits with it."""
    if not isinstance(value, type):
        return False
    if option in ("retry_on", "no_retry_on"):
        return issubclass(value, BaseException)
    return option == "backoff" and any(f"{base.__module__}.{base.__name__}" == _WAIT for base in value.__mro__)


_WAIT = "tenacity.wait.wait_base"


def resolve(path: str) -> Any:
    """Import `module:qualname`; for a job, return its function. Raises DecodeError with the reason."""
    value = found_by_name(path)
    return getattr(value, "executor", value)


def found_by_name(path: str) -> Any:
    """Import `module:qualname`; raises DecodeError with the reason."""
    module, _, qualname = path.partition(":")
    try:
        main = sys.modules["__main__"]
        value: Any = main if module == module_name("__main__") else importlib.import_module(module)
        for part in qualname.split("."):
            value = getattr(value, part)
    # importing a module runs the user's code, which can raise any error
    except Exception as error:
        raise DecodeError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return value
