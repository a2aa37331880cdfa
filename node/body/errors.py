"""Errors of bodies: made safe to raise on the loop, described for the store, and sent between processes."""

from __future__ import annotations

import contextlib
import inspect
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any, cast

import msgspec

from peerjob.model.callables import unpartial
from peerjob.model.codec import decode_value, encode_value
from peerjob.model.copied_error import CopiedError
from peerjob.model.durable_errors import Suspended
from peerjob.model.errors import (
    Fail,
    PeerjobError,
    Retry,
    Snooze,
)
from peerjob.model.policy import errors_in
from peerjob.model.references import import_path, resolve_imported
from peerjob.model.spec import ErrorInfo

MAX_TEXT = 16 * 1024
"""Most characters of the message, and of the traceback, of a stored error; longer text loses its middle."""


class BodyError(Exception):
    """Wraps an error of a body that would do harm on its way.

    A SystemExit or KeyboardInterrupt would end the event loop. Coroutines misread a GeneratorExit or StopIteration
    that passes through them. `cause` is the error of the body.
    """

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(type(cause).__name__)


class RemoteBodyError(Exception):
    """Stands for an error of another process, if this process cannot make an object of the same class."""

    def __init__(self, info: ErrorInfo) -> None:
        self.info = info
        super().__init__(info.message)


def as_exception(error: BaseException) -> Exception:
    """Return the error if coroutines and tasks pass it on unchanged, else a BodyError with the error as its cause."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return BodyError(error)


def control_exception_in(error: BaseException) -> Fail | Retry | Snooze | None:
    """The control exception in an error or a group: the first Fail, else the first Retry, else the first Snooze."""
    errors = errors_in(error)
    for kind in (Fail, Retry, Snooze):
        for raised in errors:
            if isinstance(raised, kind):
                return raised
    return None


def is_suspended(error: BaseException) -> bool:
    """Whether an error is Suspended, or a group of nothing else."""
    return all(isinstance(raised, Suspended) for raised in errors_in(error))


def location_of(error: BaseException, body: Callable[..., Any]) -> str:
    """The place in the code of the user that an error has passed last: `/app/jobs.py, line 7, in order`.

    An error of a task that the body made of a verb itself has passed none: then it is the place of the body.
    """
    frames = from_body(error.__traceback__)
    if frames is not None:
        passed = frames.tb_frame.f_code
        return f"{passed.co_filename}, line {frames.tb_lineno}, in {passed.co_name}"
    code: Any = getattr(inspect.unwrap(unpartial(body)), "__code__", None)
    return repr(body) if code is None else f"{code.co_filename}, line {code.co_firstlineno}, in {code.co_name}"


def describe_error(error: BaseException) -> ErrorInfo:
    """Describe an error as it is stored; a group by its control exception, with the traceback of the whole group.

    Never raises, even if methods of the error do.
    """
    if isinstance(error, BodyError):
        error = error.cause
    raised = control_exception_in(error)
    if raised is not None and raised is not error:
        return msgspec.structs.replace(_described(error), type=type_name(raised), message=message_of(raised))
    return _described(error)


def _described(error: BaseException) -> ErrorInfo:
    remote = error if isinstance(error, RemoteBodyError) else error.__cause__
    if isinstance(remote, RemoteBodyError):
        return remote.info
    return ErrorInfo(type=type_name(error), message=message_of(error), traceback=traceback_of(error))


def type_name(error: BaseException) -> str:
    """`module.qualname` of an error's class; only `qualname` for a builtin class."""
    kind: Any = type(error)
    try:
        return clipped(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))
    except Exception:  # noqa: BLE001  # a metaclass of the user can raise anything
        return "Exception"


def message_of(error: BaseException) -> str:
    """`str(error)`, or its repr, or a placeholder if both raise."""
    for text in (str, repr):
        try:
            return clipped(text(error))
        except BaseException:  # noqa: BLE001, S112  # a method of the user's error can raise anything
            continue
    return f"<{type(error).__name__} that cannot be shown>"


def traceback_of(error: BaseException) -> str:
    """The traceback, with its causes, without the frames before the body."""
    try:
        lines = traceback.TracebackException(type(error), error, from_body(error.__traceback__), compact=True).format()
        return clipped("".join(lines))
    except BaseException as problem:  # noqa: BLE001  # a method of the user's error can raise anything
        return f"<no traceback: {type(problem).__name__}>"


def clipped(text: str) -> str:
    """Make text storable: leave out the middle of long text, and escape lone surrogates."""
    if len(text) > MAX_TEXT:
        half = MAX_TEXT // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


_OURS = tuple(f"{Path(file).resolve().parents[1]}{os.sep}" for file in (__file__, inspect.getfile(PeerjobError)))


def from_body(frames: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of peerjob that lead to the body."""
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_ours(filename: str) -> bool:
    return str(Path(filename).resolve()).startswith(_OURS)


# -- from process to process -----------------------------------------------------------------------------------


def pack_error(error: BaseException) -> bytes | None:
    """Encode an error, so that another process can make it again; None if the codec cannot store its parts."""
    if isinstance(error, BaseExceptionGroup):
        return _pack_group(cast("BaseExceptionGroup[BaseException]", error))
    kind = type(error)
    path = import_path(kind)
    # __reduce__ returns the parts that pickle would store: the class, the arguments, and other attributes of the error
    with contextlib.suppress(Exception):
        made: Any = (kind, error.args, vars(error)) if isinstance(error, CopiedError) else error.__reduce__()
        if path is not None and made[0] is kind:
            for holds in (made[2] if len(made) > 2 else None, None):
                with contextlib.suppress(PeerjobError):
                    return encode_value([path, made[1], holds])
    return None


def _pack_group(group: BaseExceptionGroup[BaseException]) -> bytes | None:
    with contextlib.suppress(Exception):  # a group can be nested too deep to be encoded
        parts = [(type_name(exception), message_of(exception), pack_error(exception)) for exception in group.exceptions]
        return encode_value([clipped(group.message), parts])
    return None


def unpack_error(info: ErrorInfo, packed: bytes | None) -> BaseException:
    """Make the error again, with a RemoteBodyError as its cause; return that cause if this fails."""
    remote = RemoteBodyError(info)
    if packed is None:
        return remote
    try:
        error = _unpacked(decode_value(packed))
    except Exception:  # noqa: BLE001  # the module or constructor of the user's error can raise anything
        return remote
    error.__cause__ = remote
    return error


def _unpacked(made: list[Any]) -> BaseException:
    if len(made) == 2:
        message, parts = made
        # make the parts without tracebacks, because the traceback of the group contains the tracebacks of all parts
        return BaseExceptionGroup(message, [unpack_error(ErrorInfo(kind, text), part) for kind, text, part in parts])
    path, args, holds = made
    error = _made_again(resolve_imported(path), args)
    error.__dict__.update(holds or {})
    return cast(BaseException, error)


def _made_again(kind: type[Any], args: Iterable[Any]) -> Any:
    if not issubclass(kind, BaseException):
        raise TypeError(f"{kind} is not an error")
    if kind.__reduce__ not in (BaseException.__reduce__, CopiedError.__reduce__):
        with contextlib.suppress(TypeError):
            return kind(*args)  # a class with its own __reduce__ takes these arguments
    # do not call the constructor of the user's class, because most constructors take other arguments than `args`
    error = kind.__new__(kind, *args)
    for base in kind.__mro__:
        init: Any = vars(base).get("__init__")
        if init is not None and not isinstance(init, FunctionType):
            init(error, *args)
            break
    return error
