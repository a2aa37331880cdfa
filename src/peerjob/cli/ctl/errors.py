"""Errors as one line that says what to do, and as exit statuses."""

from __future__ import annotations

from peerjob.cli.console import ErrorReport, ExitStatus
from peerjob.model import errors


class CommandError(Exception):
    """A verb could not do what it was asked for; the text is for its user."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        self.status = status
        super().__init__(message)


_STATUSES: tuple[tuple[type[Exception], ExitStatus], ...] = (
    # those that end a wait for an instance stand first: one of them is a TimeoutError, too
    (errors.JobFailed, ExitStatus.FAILED),
    (errors.JobCancelled, ExitStatus.FAILED),
    (errors.JobTimedOut, ExitStatus.FAILED),
    (errors.UnauthenticatedError, ExitStatus.REFUSED),
    (errors.AuthError, ExitStatus.REFUSED),
    (errors.UnknownKindError, ExitStatus.NOT_FOUND),
    (errors.UnknownInstanceError, ExitStatus.NOT_FOUND),
    (errors.UnknownScheduleError, ExitStatus.NOT_FOUND),
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
    (errors.UnauthenticatedError, "give one with --token-file, or PEERJOB_TOKEN"),
    (errors.AuthError, "ask for a token with that role"),
    (errors.TlsMismatchError, ""),
    (errors.NodeUnavailableError, "is --address right, does the node listen there, and does it want --tls-ca?"),
    (errors.NodeStoppedError, "ask another node with --address"),
    (errors.UnknownInstanceError, "`jobctl list instances` shows those there are"),
    (errors.UnknownScheduleError, "`jobctl list schedules` shows those there are"),
)

_MISMATCHES = {
    "tls": "the node speaks TLS, and was called without: give --tls-ca FILE (or --tls, for well-known CAs)",
    "plaintext": "the node speaks no TLS, and was called with it: leave the --tls… options out, or give --no-tls",
    "certificate": "the node asks for a certificate: give --tls-cert FILE and --tls-key FILE",
}


def error_report(error: Exception) -> ErrorReport | None:
    """What to say about an error; None for one that is a defect."""
    if isinstance(error, CommandError):
        return ErrorReport(str(error), error.status)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        return None
    hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")
    return ErrorReport(f"{_text(error)}{'; ' if hint else ''}{hint}", status)


def _text(error: Exception) -> str:
    if isinstance(error, errors.UnknownKindError):
        known = ", ".join(sorted(error.known)) or "none"
        return f"no node has a job of kind {error.kind!r} (known: {known}); --allow-unknown schedules it all the same"
    if isinstance(error, errors.TlsMismatchError):
        return f"{_MISMATCHES[error.wants]} ({error.addresses[0]})"
    return str(error) or type(error).__name__
