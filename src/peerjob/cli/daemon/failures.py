"""What is said about an error that keeps a daemon from running, and with which status it ends."""

from __future__ import annotations

from peerjob import AuthError, OptionError, PeerjobError, ScheduleError, StoreUnavailableError
from peerjob.cli.console import USAGE_ERROR, Refusal

FAILED, UNREACHABLE, REFUSED = 1, 4, 5
_ADVICE = {
    "listen": " (see --listen, --tls-cert, --tokens-file and --insecure)",
    "metrics_listen": " (see --metrics-listen)",
}


def refusal_of(error: Exception) -> Refusal | None:
    """Words for an error of ours; None for any other."""
    if isinstance(error, OptionError):
        return Refusal(f"{error}{_ADVICE.get(error.option, '')}", USAGE_ERROR)
    if isinstance(error, ScheduleError):
        return Refusal(str(error), USAGE_ERROR)
    if isinstance(error, AuthError):
        return Refusal(str(error), REFUSED)
    if isinstance(error, StoreUnavailableError):
        return Refusal(f"{error} (start it, or see --store)", UNREACHABLE)
    return Refusal(str(error), FAILED) if isinstance(error, PeerjobError) else None
