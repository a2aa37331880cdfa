"""The text and the exit status of an error that prevents jobd from running."""

from __future__ import annotations

from peerjob import AuthError, OptionError, PeerjobError, ScheduleError, StoreUnavailableError
from peerjob.cli.console import ErrorReport, ExitStatus

_ADVICE = {
    "listen": " (see --listen, --tls-cert, --tokens-file and --insecure)",
    "metrics_listen": " (see --metrics-listen)",
    "scaler_listen": " (see --scaler-listen)",
    "web_listen": " (see --web-listen, --tls-cert, --tokens-file and --insecure)",
    "web_host": " (see --web-host)",
    "web_root_path": " (see --web-root-path)",
}


def error_report(error: Exception) -> ErrorReport | None:
    """The report of an error of peerjob; None for any other error."""
    if isinstance(error, OptionError):
        return ErrorReport(f"{error}{_ADVICE.get(error.option, '')}", ExitStatus.USAGE)
    if isinstance(error, ScheduleError):
        return ErrorReport(str(error), ExitStatus.USAGE)
    if isinstance(error, AuthError):
        return ErrorReport(str(error), ExitStatus.REFUSED)
    if isinstance(error, StoreUnavailableError):
        return ErrorReport(f"{error} (start it, or see --store)", ExitStatus.UNREACHABLE)
    return ErrorReport(str(error), ExitStatus.FAILED) if isinstance(error, PeerjobError) else None
