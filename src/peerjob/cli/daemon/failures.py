"""What is said about an error that keeps a daemon from running, and with which status it ends."""

from __future__ import annotations

from peerjob import AuthError, OptionError, PeerjobError, ScheduleError, StoreUnavailableError
from peerjob.cli.console import ExitStatus, Refusal

_ADVICE = {
    "listen": " (see --listen, --tls-cert, --tokens-file and --insecure)",
    "metrics_listen": " (see --metrics-listen)",
    "scaler_listen": " (see --scaler-listen)",
}


def refusal_of(error: Exception) -> Refusal | None:
    """Words for an error of ours; None for any other."""
    if isinstance(error, OptionError):
        return Refusal(f"{error}{_ADVICE.get(error.option, '')}", ExitStatus.USAGE)
    if isinstance(error, ScheduleError):
        return Refusal(str(error), ExitStatus.USAGE)
    if isinstance(error, AuthError):
        return Refusal(str(error), ExitStatus.REFUSED)
    if isinstance(error, StoreUnavailableError):
        return Refusal(f"{error} (start it, or see --store)", ExitStatus.UNREACHABLE)
    return Refusal(str(error), ExitStatus.FAILED) if isinstance(error, PeerjobError) else None
