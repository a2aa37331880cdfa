"""The text and the exit status of an error that prevents jobd from running."""

from __future__ import annotations

from peerjob import AuthError, OptionError, PeerjobError, ScheduleError, StoreUnavailableError
from peerjob.cli.console import ErrorReport, ExitStatus
from peerjob.model.listen_address import FREE_ADDRESS

_ADVICE = {
    "listen": " (see --listen, --tls-cert, --tokens-file and --insecure)",
    "metrics_listen": " (see --metrics-listen)",
    "scaler_listen": " (see --scaler-listen)",
    "web_listen": " (see --web-listen, --tls-cert, --tokens-file and --insecure)",
    "web_host": " (see --web-host)",
    "web_root_path": " (see --web-root-path)",
}


_ADDRESS_ADVICE = {
    "scaler_listen": " (give --scaler-listen another port, or 0 for any free port)",
    "web_listen": " (give --web-listen another port, or 0 for any free port)",
}
_SECOND_NODE = (
    " (a second node on one machine needs other ports, such as --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 "
    "for any free ports, or off for none)"
)
"""It names both flags, so that a second node does not fail again at the next port."""


def error_report(error: Exception) -> ErrorReport | None:
    """The report of an error of peerjob; None for any other error."""
    if isinstance(error, OptionError):
        if error.expected.startswith(FREE_ADDRESS):
            advice = _ADDRESS_ADVICE.get(error.option, _SECOND_NODE)
        else:
            advice = _ADVICE.get(error.option, "")
        return ErrorReport(f"{error}{advice}", ExitStatus.USAGE)
    if isinstance(error, ScheduleError):
        return ErrorReport(str(error), ExitStatus.USAGE)
    if isinstance(error, AuthError):
        return ErrorReport(str(error), ExitStatus.REFUSED)
    if isinstance(error, StoreUnavailableError):
        return ErrorReport(f"{error} (start it, or see --store)", ExitStatus.UNREACHABLE)
    return ErrorReport(str(error), ExitStatus.FAILED) if isinstance(error, PeerjobError) else None
