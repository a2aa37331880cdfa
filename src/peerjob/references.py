"""Callables and classes stored by name, so that another process can find them again."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import DecodeError, OptionError

Reference = str
_LOCAL = "local:"


def import_path(value: Any) -> str | None:
    """`module:qualname` of something that can be imported by it, else None."""
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None)
    if not module or not qualname or "<" in qualname:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is value or getattr(found, "executor", None) is value:
        return f"{module_name(module)}:{qualname}"
    return None


def module_name(module: str) -> str:
    """The name under which another process can import a module; `__main__` by its own name where it has one."""
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(sys.modules["__main__"], "__file__", None)
    return str(file).replace("\\", "/").rpartition("/")[2].removesuffix(".py") if file else module


def misnamed_script() -> str | None:
    """The file of the running script, when an import of its name would not find it; None when it would."""
    main = sys.modules["__main__"]
    file, name = getattr(main, "__file__", None), module_name("__main__")
    if not file or getattr(main, "__spec__", None) is not None:
        return None
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = None if "." in name else importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).samefile(file):
            return None
    return str(file)


def to_stored(value: Any, option: str, local: dict[str, Any] | None) -> Reference:
    """The reference to store; raises OptionError for what cannot be imported, unless `local` can keep it."""
    path = import_path(value)
    if path is not None and not path.startswith("__main__:"):
        return path
    if local is None:
        raise OptionError(
            option,
            value,
            "something importable by name when given per schedule (no lambda, closure or object)",
        )
    reference = f"{_LOCAL}{len(local)}"
    for known, kept in local.items():
        if kept is value:
            return known
    local[reference] = value
    return reference


def from_stored(reference: Reference, local: Mapping[str, Any] | None) -> Any:
    """What a reference names; raises DecodeError when it is not here."""
    if reference.startswith(_LOCAL):
        if local is None or reference not in local:
            raise DecodeError(f"{reference} lives in another process")
        return local[reference]
    return resolve(reference)


def resolve(path: str) -> Any:
    """Import `module:qualname`, of a job its function; raises DecodeError with the reason."""
    found = found_by_name(path)
    return getattr(found, "executor", found)


def found_by_name(path: str) -> Any:
    """Import `module:qualname`; raises DecodeError with the reason."""
    module, _, qualname = path.partition(":")
    try:
        main = sys.modules["__main__"]
        found: Any = main if module == module_name("__main__") else importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs code of the user's
        raise DecodeError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return found
