"""Every error that peerjob raises.

docs/reference/errors.md lists them with their bases. The last paragraph of each docstring is its column of solutions.

`Retry`, `Fail` and `Snooze` are control exceptions, which a job raises; they do not derive from PeerjobError.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Literal

from .copied_error import CopiedError
from .listed import listed
from .printable import shown


class PeerjobError(CopiedError, Exception):
    """Base of all errors of this package.

    Solution: Catch it to catch all of them.
    """


class ArgumentError(PeerjobError, TypeError):
    """Arguments do not fit the signature of a job; `problems` lists every mismatch.

    Solution: Correct the arguments of the call, or the signature of the job. Nothing is stored.
    """

    def __init__(self, kind: str, problems: Sequence[str]) -> None:
        self.kind = kind
        self.problems = tuple(problems)
        super().__init__(f"arguments do not fit job {kind!r}: " + "; ".join(self.problems))


class OptionError(PeerjobError, ValueError):
    """An option or setting has an invalid value.

    Solution: Set `option` to a value that fits `expected`. Nothing is stored.
    """

    def __init__(self, option: str, given: object, expected: str) -> None:
        self.option = option
        self.given = given
        self.expected = expected
        super().__init__(f"{option}: expected {expected}, got {shown(given)}")


class MissingExtraError(PeerjobError, ImportError):
    """A feature needs an extra that is not installed; `extra` is its name, and the text has the command for pip.

    Solution: Run the command in the text.
    """

    def __init__(self, feature: str, extra: str, missing: str) -> None:
        self.feature = feature
        self.extra = extra
        self.missing = missing
        super().__init__(f"{feature} needs peerjob[{extra}]: pip install 'peerjob[{extra}]' ({missing} is missing)")


class ScheduleError(PeerjobError, ValueError):
    """A time, time zone or recurrence is invalid.

    Solution: Correct the time or the cron text. `explain()` shows the fires of a cron text.
    """


UNKNOWN_KIND_ADVICE = (
    "; register a job of it, or schedule with allow_unknown=True, so that the instance waits for a node that has one"
)
"""The end of the text of UnknownKindError."""


class UnknownKindError(PeerjobError, LookupError):
    """No job of this kind is registered here, and no node of the namespace has published the kind.

    Solution: Start a node that registers the kind, correct the text, or set `allow_unknown=True`.
    """

    def __init__(self, kind: str, known: Sequence[str] = ()) -> None:
        self.kind = kind
        self.known = tuple(known)
        super().__init__(f"no node knows the kind {kind!r} (known: {listed(known, like=kind)}){UNKNOWN_KIND_ADVICE}")


class JobConflictError(PeerjobError, ValueError):
    """Two functions have one kind: in a module or list of jobs, or a scheduled job and a registered one.

    Solution: Give one of the two functions another kind.
    """

    def __init__(self, kind: str, registered: str, given: str) -> None:
        self.kind = kind
        self.registered = registered
        self.given = given
        super().__init__(
            f"kind {kind!r} belongs to {registered} here, and was also given with {given}; "
            "give one of them another kind, or register() the new one to replace the old"
        )


class UnknownInstanceError(PeerjobError, LookupError):
    """The store has no instance with this id.

    Solution: Check the id and the namespace. For a longer memory, set `retention=`.
    """

    def __init__(self, uuid: str, why: str = "never scheduled, or removed by retention") -> None:
        self.uuid = uuid
        self.why = why
        super().__init__(f"no instance {uuid} in this namespace ({why})")


class RowRefusedError(UnknownInstanceError):
    """A relay sent a row of an outbox, and its id has no instance; `holder` is the instance with the key of the row.

    Solution: Look up `holder`. If it is "", the table with the suffix `_bad` has the row.
    """

    def __init__(self, uuid: str, holder: str, why: str = "a relay could not send its row") -> None:
        super().__init__(uuid, why)
        self.holder = holder


class UnknownScheduleError(PeerjobError, LookupError):
    """The store has no schedule with this name.

    Solution: Check the name and the namespace: `jobctl schedules list` has both.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no schedule {name!r} in this namespace (never added, or removed)")


class UnknownNodeError(PeerjobError, LookupError):
    """No live node has this name or incarnation; `live` has the names of the live nodes.

    Solution: Use a name of `live`, which `jobctl list nodes` lists, too.
    """

    def __init__(self, node: str, live: Sequence[str] = ()) -> None:
        self.node = node
        self.live = tuple(live)
        super().__init__(f"no live node has the name or incarnation {node!r} (live: {listed(live, like=node)})")


class PayloadTooLargeError(PeerjobError, ValueError):
    """Arguments or a result exceed the limit; sizes are in bytes.

    Solution: Store the data elsewhere and pass its name, or raise `max_payload=` on all nodes.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(f"{what}: {size:,} bytes encoded, over the limit of {limit:,} bytes")


class EncodeError(PeerjobError, TypeError):
    """A value cannot be stored; `path` has the keys and indexes of the part at fault.

    Solution: Convert the part at `path` to a type that can be stored, such as a dataclass or text.
    """

    def __init__(self, path: tuple[object, ...], reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"value{path_text(path)}: {reason}")


def path_text(path: Sequence[object]) -> str:
    """Format a path into a value as in code: `["x"][0]`."""
    try:
        return "".join(f"[{key!r}]" for key in path)
    except Exception:  # noqa: BLE001  # repr() runs the key's own code, which can raise any error
        return f" (at depth {len(path)})"


class DecodeError(PeerjobError, ValueError):
    """A stored value cannot be read.

    Solution: Use the release that wrote the value. `jobd check` counts the records that cannot be read.
    """


class ResultTypeError(PeerjobError, TypeError):
    """The stored result of a Completed instance does not fit the return annotation of the job in this process.

    `raw` is the result as plain data; `problems` lists every mismatch.

    Solution: Use `raw`, or deploy the same return annotation everywhere.
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


class StoreError(PeerjobError):
    """The store could not execute a request.

    Solution: Read the text: it has the answer of the server.
    """

    is_unsure = False
    """Whether an earlier attempt of the same call, or a part of it, may have been executed."""


class StoreUnavailableError(StoreError, ConnectionError):
    """The store cannot be reached; `url` has no password.

    Solution: Start the server, or correct the URL: `jobd check` tests it. Calls continue when the server answers.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"cannot reach the store at {url}: {reason}")


class StoreUnconfirmedError(StoreUnavailableError):
    """The request is written, but the confirmation that the store's `durability` requires did not come in time.

    A crash of the server now may lose the write. The request is never written in part.

    Solution: Repeat a call that has a key, or look up its effect. Check the replicas or the disk of the server.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.args = (f"written to the store at {url}, but {reason}",)


class StoreRefusedError(StoreError):
    """The store refuses a request because of its content (too large, a broken record); a retry would fail too.

    Causes outside of the request, such as an outage, a full server or missing rights, raise other errors.

    Solution: Make the request smaller, or remove the broken record. A retry does not help.
    """


class StoreFullError(StoreError):
    """The store is full; no part of the request was written.

    Solution: Add memory or disk space, or remove old instances with `jobctl clear instances`.
    """


class LayoutError(StoreError):
    """The namespace has the layout `found` of another release, or `nodes` do not read the layout `known` yet.

    Without `nodes`, `known` is the highest layout of this release. With `nodes`, a new feature needs the layout.

    Solution: Use the release of the other nodes, or another namespace. `jobd clear` removes an old one. With `nodes`:
    update peerjob on them first.
    """

    def __init__(
        self, message: str, *, found: int | None = None, known: int | None = None, nodes: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.found = found
        self.known = known
        self.nodes = tuple(nodes)


class TableError(PeerjobError, LookupError):
    """A table of an outbox is missing, or it is of another version; `ddl` has the statements that make all tables.

    Solution: Execute `ddl` in the database, for example with `Outbox.create_table`.
    """

    def __init__(self, table: str, problem: str, ddl: str) -> None:
        self.table = table
        self.ddl = ddl
        super().__init__(f"table {table} {problem}; these statements make what is missing:\n{ddl}")


class NodeStateError(PeerjobError, RuntimeError):
    """The node's state does not allow the call: it is not started, stopped, or started already.

    Solution: Start the node before the call, for example with `async with node:`.
    """


class NodeStoppedError(NodeStateError):
    """The called node is stopping or has stopped; another node may serve.

    Solution: Call another node. A `Client` with several addresses does so.
    """


class RemoteError(PeerjobError):
    """A node answered a call with a gRPC status that has no error class here.

    Solution: Look up `code` in the documentation of gRPC. Often a proxy answered instead of a node.
    """

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"{code}: {text}")


class NodeUnavailableError(RemoteError, ConnectionError):
    """No node of `addresses` can be reached, or the called node disconnected before its answer.

    Solution: Start a node that listens at one of the addresses, or correct them.
    """

    def __init__(self, addresses: Sequence[str], reason: str) -> None:
        self.addresses = tuple(addresses)
        super().__init__("UNAVAILABLE", f"{reason} ({', '.join(self.addresses)})")


class TlsMismatchError(NodeUnavailableError):
    """The node expects another form of connection.

    `wants` is "tls", "plaintext", or "certificate" for a certificate of the client.

    Solution: Set or remove `tls=` of the client, as the text says.
    """

    def __init__(self, address: str, wants: Literal["tls", "plaintext", "certificate"]) -> None:
        self.wants = wants
        reason = {
            "tls": "the node requires TLS, but the client called without TLS: give the client tls=ClientTls(ca=…)",
            "plaintext": "the node does not use TLS, but the client called with TLS: leave the client's tls= out",
            "certificate": "the node requires a client certificate: use tls=ClientTls(certificate=…, key=…)",
        }
        super().__init__([address], reason[wants])


class JobFailed(PeerjobError):
    """The instance ended in Terminated; with the type, message and traceback of the error.

    Solution: Read `traceback`. `Instance.retry()` runs the instance again.
    """

    def __init__(self, uuid: str, type: str, message: str, traceback: str = "") -> None:
        self.uuid = uuid
        self.type = type
        self.message = message
        self.traceback = traceback
        super().__init__(f"{type}: {message}" if message else type)


class FlowFailed(PeerjobError):
    """A member of a flow that is not optional did not complete; `member` and `uuid` name the first one, by number.

    Solution: Read the error of the member. `retry_flow` runs the flow again, and keeps what completed.
    """

    def __init__(self, flow: str, member: str, uuid: str, end: str) -> None:
        self.flow = flow
        self.member = member
        self.uuid = uuid
        super().__init__(f"member {member!r} of flow {flow!r} ({uuid}) ended {end}")


class JobCancelled(PeerjobError):
    """The instance ended in Cancelled.

    Solution: Look up the cause in the history of the instance. `Instance.retry()` runs it again.
    """

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        super().__init__(f"instance {uuid} was cancelled")


class JobTimedOut(PeerjobError, TimeoutError):
    """The instance ended in TimedOut: its last attempt exceeded the timeout.

    Solution: Raise `timeout=` of the job, or make the job faster.
    """

    def __init__(self, uuid: str, message: str = "") -> None:
        self.uuid = uuid
        super().__init__(message or f"instance {uuid} timed out")


class JobProcessDied(PeerjobError):
    """The child process of the job ended before the job; `status` is negative for a signal.

    Solution: Look for a cause outside of Python: the memory limit of the machine, or a crash in C code.
    """

    def __init__(self, status: int | None) -> None:
        self.status = status
        super().__init__(f"the process of the job ended before the job did ({_status_text(status)})")


def _status_text(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


class OwnershipLost(PeerjobError):
    """This run no longer holds its claim; another node may run the instance.

    Solution: Let the error end the run, and write nothing more: another run may be active.
    """


class AuthError(PeerjobError, PermissionError):
    """The call is not allowed: missing or wrong credentials, or a role without this right.

    Solution: Use a token with the right that the text names.
    """


class UnauthenticatedError(AuthError):
    """The credentials are missing or wrong.

    Solution: Set a valid token or client certificate.
    """


class StoreCredentialsError(StoreError, UnauthenticatedError):
    """The store refuses the user name or the password of its URL or provider. It is raised at once, without retries.

    Solution: Correct the user and the password in the URL of the store, or what the provider of credentials returns.
    """


class StorePermissionError(StoreError, AuthError):
    """The user of the store lacks a right, such as an ACL rule. It is raised at once, without retries.

    Solution: Grant the user of the store the rights that the text lists.
    """


class StoreCommandError(StoreError):
    """The server lacks a command that peerjob needs: an administrator renamed or disabled the command.

    It is raised at once, without retries.

    Solution: Use a server on which the command has its own name.
    """


class Retry(CopiedError, Exception):
    """A job raises it to end the attempt and retry; this counts as a retry.

    `after` is a Duration, by default the job's backoff.
    """

    def __init__(self, after: object = None, reason: str = "") -> None:
        self.after = after
        self.reason = reason
        super().__init__(reason or "retry requested")


class Fail(CopiedError, Exception):
    """A job raises it to end in Terminated at once, without a retry."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "failed")


class Snooze(CopiedError):
    """`Context.snooze` raises it to run the instance again later, without counting an attempt.

    It is a BaseException, so that `except Exception` inside a job does not catch it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"snoozed for {seconds:g} s")
