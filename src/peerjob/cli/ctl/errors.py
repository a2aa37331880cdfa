"""The text of an error, which says what to do, and its exit status."""

from __future__ import annotations

from peerjob.cli.console import ErrorReport, ExitStatus
from peerjob.model import errors


class CommandError(Exception):
    """A verb failed; the text is for its user."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        self.status = status
        super().__init__(message)


_STATUSES: tuple[tuple[type[Exception], ExitStatus], ...] = (
    # JobTimedOut is also a TimeoutError, so the errors of an awaited instance come before TimeoutError
    (errors.JobFailed, ExitStatus.FAILED),
    (errors.JobCancelled, ExitStatus.FAILED),
    (errors.JobTimedOut, ExitStatus.FAILED),
    # the rights of the node in its store, which the caller cannot change
    (errors.StoreCredentialsError, ExitStatus.FAILED),
    (errors.StorePermissionError, ExitStatus.FAILED),
    (errors.UnauthenticatedError, ExitStatus.REFUSED),
    (errors.AuthError, ExitStatus.REFUSED),
    (errors.UnknownKindError, ExitStatus.NOT_FOUND),
    (errors.UnknownInstanceError, ExitStatus.NOT_FOUND),
    (errors.UnknownScheduleError, ExitStatus.NOT_FOUND),
    (errors.UnknownNodeError, ExitStatus.NOT_FOUND),
    (errors.NodeUnavailableError, ExitStatus.UNREACHABLE),
    (errors.NodeStoppedError, ExitStatus.UNREACHABLE),
    (errors.StoreUnavailableError, ExitStatus.UNREACHABLE),
    (errors.ArgumentError, ExitStatus.USAGE),
    (errors.OptionError, ExitStatus.USAGE),
    (errors.ScheduleError, ExitStatus.USAGE),
    (errors.EncodeError, ExitStatus.USAGE),
    (errors.PayloadTooLargeError, ExitStatus.USAGE),
    (TimeoutError, ExitStatus.TIME_OVER),
    (errors.PeerjobError, ExitStatus.FAILED),
)

_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (errors.StoreError, ""),
    (errors.UnauthenticatedError, "set one with --token-file, or PEERJOB_TOKEN"),
    (errors.AuthError, "you need a token with this right"),
    (errors.TlsMismatchError, ""),
    (errors.NodeUnavailableError, "check --address, and whether a node listens there"),
    (errors.NodeStoppedError, "ask another node with --address"),
    (errors.UnknownKindError, "`jobctl list jobs` shows the kinds of the live nodes"),
    (errors.UnknownInstanceError, "`jobctl list instances` shows the instances"),
    (errors.UnknownScheduleError, "`jobctl list schedules` shows the schedules"),
)

_MISMATCHES = {
    "tls": "the node uses TLS, and jobctl does not: set --tls-ca FILE (or --tls, for well-known CAs)",
    "plaintext": "the node does not use TLS, and jobctl does: leave the --tls… options out, or set --no-tls",
    "certificate": "the node requires a client certificate: set --tls-cert FILE and --tls-key FILE",
}


def error_report(error: Exception) -> ErrorReport | None:
    """The report of an error; None for a defect of jobctl."""
    if isinstance(error, CommandError):
        return ErrorReport(str(error), error.status)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        return None
    hint = _hint(error)
    return ErrorReport(f"{text_of(error)}{'; ' if hint else ''}{hint}", status)


def _hint(error: Exception) -> str:
    if type(error) is errors.NodeUnavailableError and "certificate has expired" in error.text:
        return "renew the files of --tls-cert and --tls-key of the node, which needs no restart"
    if type(error) is errors.NodeUnavailableError and "certificate" in error.text:
        return "check --tls-ca and --tls-server-name"
    return next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")


def text_of(error: Exception) -> str:
    """The text of an error, without a hint."""
    if isinstance(error, errors.UnknownKindError):
        return str(error).removesuffix(errors.UNKNOWN_KIND_ADVICE)  # jobctl has its own hint
    if isinstance(error, errors.TlsMismatchError):
        return f"{_MISMATCHES[error.wants]} ({error.addresses[0]})"
    if isinstance(error, errors.NodeUnavailableError):
        return error.text
    return str(error) or type(error).__name__
