"""Every error that peerjob raises.

PeerjobError
├── ArgumentError (TypeError)            arguments that do not fit the job
├── OptionError (ValueError)             a setting that is out of range or of the wrong kind
├── ScheduleError (ValueError)           a bad time, zone or recurrence
├── UnknownKindError (LookupError)       no node has published that kind
├── JobConflictError (ValueError)        another function is registered under that kind
├── UnknownInstanceError (LookupError)   no instance has that id
├── UnknownScheduleError (LookupError)   no schedule has that name
├── PayloadTooLargeError (ValueError)    arguments or a result over the limit
├── EncodeError (TypeError)              a value of a type that cannot be stored
├── DecodeError (ValueError)             a stored record that cannot be read
├── ResultTypeError (TypeError)          a stored result that does not fit the job's return annotation
├── StoreError
│   ├── StoreUnavailableError (ConnectionError)   the store cannot be reached
│   │   └── StoreUnconfirmedError        it is written, but not yet where the store's `durability` wants it
│   ├── StoreRefusedError                the store refuses this request, and would refuse it again
│   ├── StoreFullError                   the store refuses to grow
│   └── LayoutError                      the namespace has the layout of another release
├── NodeStateError (RuntimeError)        the node is not running, or runs already
│   └── NodeStoppedError                 the node that was asked is stopping, or has stopped
├── RemoteError                          a node gave an answer that is no error of this list
│   └── NodeUnavailableError (ConnectionError)   no node can be reached
│       └── TlsMismatchError             the node speaks TLS and the client does not, or the reverse
├── JobFailed                            the instance was Terminated
├── JobCancelled                         the instance was Cancelled
├── JobTimedOut (TimeoutError)           the instance ended in TimedOut
├── JobProcessDied                       the process that ran the job was killed or ended by itself
├── OwnershipLost                        the run no longer holds its claim
└── AuthError (PermissionError)          not allowed
    └── UnauthenticatedError             no credentials, or wrong ones

`Retry`, `Fail` and `Snooze` are signals that a job raises, not failures of peerjob.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Literal


class PeerjobError(Exception):
    """Base of every error of this package."""


class ArgumentError(PeerjobError, TypeError):
    """Arguments do not fit the signature of a job; `problems` lists every mismatch."""

    def __init__(self, kind: str, problems: Sequence[str]) -> None:
        self.kind = kind
        self.problems = tuple(problems)
        super().__init__(f"arguments do not fit job {kind!r}: " + "; ".join(self.problems))

    def __reduce__(self) -> tuple[type[ArgumentError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.kind, self.problems)


class OptionError(PeerjobError, ValueError):
    """An option or setting has a value that it cannot take."""

    def __init__(self, option: str, given: object, expected: str) -> None:
        self.option = option
        self.given = given
        self.expected = expected
        super().__init__(f"{option}: expected {expected}, got {given!r}")


class ScheduleError(PeerjobError, ValueError):
    """A time, time zone or recurrence that cannot be used."""


class UnknownKindError(PeerjobError, LookupError):
    """No job of this kind is registered here, and no node of the namespace has published the kind."""

    def __init__(self, kind: str, known: Sequence[str] = ()) -> None:
        self.kind = kind
        self.known = tuple(known)
        listed = ", ".join(sorted(self.known)[:10]) or "none"
        super().__init__(
            f"no node knows the kind {kind!r} (known: {listed}); "
            "register a job of it, or pass allow_unknown=True to let it wait for a node that has one"
        )


class JobConflictError(PeerjobError, ValueError):
    """A job was scheduled under a kind that another function is registered for."""

    def __init__(self, kind: str, registered: str, given: str) -> None:
        self.kind = kind
        self.registered = registered
        self.given = given
        super().__init__(
            f"kind {kind!r} is registered for {registered} here, and was scheduled with {given}; "
            "give one of them another kind, or register() the new one to replace the old"
        )

    def __reduce__(self) -> tuple[type[JobConflictError], tuple[str, str, str]]:
        return type(self), (self.kind, self.registered, self.given)


class UnknownInstanceError(PeerjobError, LookupError):
    """No instance with this id is in the store."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        super().__init__(f"no instance {uuid} in this namespace (never scheduled, or removed by retention)")


class UnknownScheduleError(PeerjobError, LookupError):
    """No schedule with this name is in the store."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no schedule {name!r} in this namespace (never added, or removed)")


class PayloadTooLargeError(PeerjobError, ValueError):
    """Arguments or a result are larger than the limit; sizes are bytes."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(f"{what}: {size:,} bytes encoded, over the limit of {limit:,} bytes")


class EncodeError(PeerjobError, TypeError):
    """A value cannot be stored: `path` leads to the part that cannot, by keys and indexes."""

    def __init__(self, path: tuple[object, ...], reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"value{path_text(path)}: {reason}")

    def __reduce__(self) -> tuple[type[EncodeError], tuple[tuple[object, ...], str]]:
        return type(self), (self.path, self.reason)


def path_text(path: Sequence[object]) -> str:
    """A path into a value as it is written in code: `["x"][0]`."""
    try:
        return "".join(f"[{key!r}]" for key in path)
    except Exception:  # noqa: BLE001  # a key's own code, or an integer of over 4300 digits
        return f" (at depth {len(path)})"


class DecodeError(PeerjobError, ValueError):
    """A stored value cannot be read."""


class ResultTypeError(PeerjobError, TypeError):
    """The instance is Completed, and its stored result does not fit the return annotation of the job as it is here.

    `raw` is the result as plain data, and `problems` lists every mismatch.
    """

    def __init__(self, uuid: str, kind: str, expected: str, problems: Sequence[str], raw: object) -> None:
        self.uuid = uuid
        self.kind = kind
        self.expected = expected
        self.problems = tuple(problems)
        self.raw = raw
        super().__init__(
            f"result of instance {uuid} of {kind!r} does not fit {expected}: {'; '.join(self.problems)}; "
            "the attribute `raw` has it as plain data"
        )

    def __reduce__(self) -> tuple[type[ResultTypeError], tuple[str, str, str, tuple[str, ...], object]]:
        return type(self), (self.uuid, self.kind, self.expected, self.problems, self.raw)


class StoreError(PeerjobError):
    """The store could not do what was asked."""


class StoreUnavailableError(StoreError, ConnectionError):
    """The store cannot be reached; `url` is redacted."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"cannot reach the store at {url}: {reason}")


class StoreUnconfirmedError(StoreUnavailableError):
    """What was asked for is done, but was not confirmed in time to be where the store's `durability` wants it.

    It may be lost if the server dies now. Nothing is half done.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.args = (f"written to the store at {url}, but {reason}",)

    def __reduce__(self) -> tuple[type[StoreUnconfirmedError], tuple[str, str]]:
        return type(self), (self.url, self.reason)


class StoreRefusedError(StoreError):
    """The store refuses a request because of its content (too large, a broken record), and would refuse it again.

    An outage, a full server, missing rights and other causes outside the request are other errors.
    """


class StoreFullError(StoreError):
    """The store refuses to grow; nothing of the request was written."""


class LayoutError(StoreError):
    """Another release writes the namespace: its layout is `found`, that of this release is `known`."""

    def __init__(self, message: str, *, found: int | None = None, known: int | None = None) -> None:
        super().__init__(message)
        self.found = found
        self.known = known


class NodeStateError(PeerjobError, RuntimeError):
    """The node is in the wrong state for this call (not started, stopped, or started twice)."""


class NodeStoppedError(NodeStateError):
    """The node that was asked is stopping or has stopped; another one may serve."""


class RemoteError(PeerjobError):
    """A node ended a call with a status that says no more than its code and a text."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"{code}: {text}")


class NodeUnavailableError(RemoteError, ConnectionError):
    """No node of `addresses` can be reached, or the one that was asked went away before it answered."""

    def __init__(self, addresses: Sequence[str], reason: str) -> None:
        self.addresses = tuple(addresses)
        super().__init__("UNAVAILABLE", f"{reason} ({', '.join(self.addresses)})")


class TlsMismatchError(NodeUnavailableError):
    """The node listens, and expects another form of connection.

    `wants` tells which: "tls", "plaintext", or a client's "certificate".
    """

    def __init__(self, address: str, wants: Literal["tls", "plaintext", "certificate"]) -> None:
        self.wants = wants
        reason = {
            "tls": "the node speaks TLS, and was called without: give the client tls=ClientTls(ca=…)",
            "plaintext": "the node speaks no TLS, and was called with it: leave the client's tls= out",
            "certificate": "the node asks for a certificate: give the client tls=ClientTls(certificate=…, key=…)",
        }
        super().__init__([address], reason[wants])


class JobFailed(PeerjobError):
    """The instance ended in Terminated; carries the remote type, message and traceback."""

    def __init__(self, uuid: str, type: str, message: str, traceback: str = "") -> None:
        self.uuid = uuid
        self.type = type
        self.message = message
        self.traceback = traceback
        super().__init__(f"{type}: {message}" if message else type)


class JobCancelled(PeerjobError):
    """The instance ended in Cancelled."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        super().__init__(f"instance {uuid} was cancelled")


class JobTimedOut(PeerjobError, TimeoutError):
    """The instance ended in TimedOut: its last attempt ran longer than its timeout."""

    def __init__(self, uuid: str, message: str = "") -> None:
        self.uuid = uuid
        super().__init__(message or f"instance {uuid} timed out")


class JobProcessDied(PeerjobError):
    """The child process that ran the job ended before the job did; `status` is negative for a signal."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        super().__init__(f"the process of the job ended before the job did ({_status_text(status)})")

    def __reduce__(self) -> tuple[type[JobProcessDied], tuple[int | None]]:
        return type(self), (self.status,)


def _status_text(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


class OwnershipLost(PeerjobError):
    """This run no longer holds its claim; another node may be running the instance."""


class AuthError(PeerjobError, PermissionError):
    """Not allowed: missing or wrong credentials, or a role without this right."""


class UnauthenticatedError(AuthError):
    """There are no credentials, or wrong ones."""


class Retry(Exception):
    """Raised inside a job: end this attempt and try again, counted as a retry.

    `after` is a Duration (default: the job's backoff).
    """

    def __init__(self, after: object = None, reason: str = "") -> None:
        self.after = after
        self.reason = reason
        super().__init__(reason or "retry requested")


class Fail(Exception):
    """Raised inside a job: end in Terminated now, without a retry."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "failed")


class Snooze(BaseException):
    """Raised by `Context.snooze`: put the instance off without counting an attempt.

    A BaseException so that `except Exception` inside a job does not swallow it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"snoozed for {seconds:g} s")
