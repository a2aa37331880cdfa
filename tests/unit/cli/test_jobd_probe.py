"""`jobd probe` and `jobd drain`, up to what needs a daemon."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

import peerjob_probe
from peerjob import OptionError
from peerjob.cli import jobd
from peerjob.cli.console import run
from peerjob.cli.daemon.drain import check_daemon, wait_until_drained
from peerjob.cli.daemon.errors import error_report
from peerjob.node.observe.metrics.server import PROBES
from peerjob_probe import ask, parse_probe
from support.processes import ChildProcess
from support.stalls import Stalls, now_us


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(peerjob_probe.VARIABLE, raising=False)


@contextmanager
def answering(*answers: bytes | None, host: str = "127.0.0.1") -> Generator[int]:
    """A port where one request after the other is answered so; None: never."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    if answer is None:
                        asked.wait(30)
                    else:
                        connection.sendall(answer)

        asked = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            asked.set()
            thread.join()


def test_an_unknown_probe_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(jobd.app, "jobd", ["probe", "dead"], error_report) == 2
    assert "Invalid value for 'PROBE': 'dead' is not one of 'live', 'ready'," in capsys.readouterr().err


def test_a_plain_probe_is_understood_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_probe(["probe", "live"]) == ("live", "127.0.0.1", 9090, 2.0)
    assert parse_probe(["probe", "ready", "--timeout", "0.5s", "--metrics-listen=[::]:1"]) == ("ready", "[::]", 1, 0.5)
    monkeypatch.setenv(peerjob_probe.VARIABLE, "0.0.0.0:9191")
    assert parse_probe(["probe", "started"]) == ("started", "0.0.0.0", 9191, 2.0)
    assert parse_probe(["probe", "drained", "--metrics-listen", "host:1"]) == ("drained", "host", 1, 2.0)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "run app.jobs",
        "probe",
        "probe --help",
        "probe nope",
        "probe live --help",
        "probe live --timeout",
        "probe live --timeout 1m",
        "probe live --timeout 0",
        "probe live --metrics-listen off",
        "probe live --metrics-listen host:70000",
        "probe live --nope 1",
    ],
)
def test_what_is_not_plain_is_left_to_the_whole_command(words: str) -> None:
    assert parse_probe(words.split()) is None


def test_a_plain_probe_loads_nothing_of_the_package() -> None:
    code = "import sys, peerjob_probe; sys.argv[1:] = ['probe', 'live', '--metrics-listen', '127.0.0.1:1']\n"
    code += "try: peerjob_probe.main()\nexcept SystemExit as end: print(end.code, len([m for m in sys.modules if "
    code += "m.partition('.')[0] in ('peerjob', 'typer', 'asyncio', 'http', 'grpc')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 0\n"
    assert done.stderr.startswith("jobd: not live: 127.0.0.1:1 cannot be asked (")


def test_door_and_server_speak_of_the_same_paths() -> None:
    assert {probe.value: path for path, probe in PROBES.items()} == peerjob_probe.PATHS


@pytest.mark.parametrize(
    ("answer", "ok", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok\nok    lease: fine\n", True, ""),
        (b"HTTP/1.1 503 No\r\n\r\nfailed\nok    a: b\nfail  lease: gone\nfail  c: d\n", False, "lease: gone; c: d"),
        (b"HTTP/1.1 404 Not Found\r\n\r\nthe metrics are at /metrics\n", False, "answered 404 the metrics are at"),
        (b"SSH-2.0-server\r\n", False, "not HTTP"),
        (b"", False, "it closed the connection"),
        (None, False, "did not answer within 0.2 s"),
    ],
)
def test_an_answer_is_printed_in_one_line(answer: bytes | None, ok: bool, why: str) -> None:
    with answering(answer) as port:
        heard = ask("live", "0.0.0.0", port, 10 if answer is not None else 0.2)
    assert heard.ok is ok
    assert why in heard.why
    assert "\n" not in heard.why


def test_a_drain_that_ends_in_a_probe_cut_short_tells_the_answer_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    while True:
        with Stalls() as stalls, answering(b"HTTP/1.1 503 No\r\n\r\nfailed\nfail  workers: 3 run\n", None) as port:
            began_us = now_us()
            assert wait_until_drained(os.getpid(), "127.0.0.1", port, 0.5, time.monotonic() + 0.5) == 1
            told, stalled = capsys.readouterr().err, stalls.between(began_us, now_us())
        if stalled < 0.1:
            break  # else the first answer may have come too late
    assert told == "jobd: not drained after 0.5 s: workers: 3 run\n"


def test_a_drain_of_a_daemon_that_does_not_answer_tells_the_longest_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(None, None) as port:
        assert wait_until_drained(os.getpid(), "127.0.0.1", port, 2.4, time.monotonic() + 2.4) == 1
    assert capsys.readouterr().err == f"jobd: not drained after 2.4 s: 127.0.0.1:{port} did not answer within 2 s\n"


def test_a_long_time_limit_is_told_as_a_whole_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> NoReturn:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", late)
    assert ask("live", "127.0.0.1", 1, 1234).why == "127.0.0.1:1 did not answer within 1234 s"
    assert ask("live", "127.0.0.1", 1, 1.9998765).why == "127.0.0.1:1 did not answer within 2 s"


@pytest.mark.parametrize(
    ("listens", "host", "where"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "localhost", "localhost"),
        ("::1", "::1", "[::1]"),
        ("::1", "[::1]", "[::1]"),
        ("::1", "::", "[::1]"),
        ("::1", "[::]", "[::1]"),
    ],
)
def test_a_host_is_found_however_it_is_written(listens: str, host: str, where: str) -> None:
    try:
        with answering(b"HTTP/1.1 404 No\r\n\r\n", host=listens) as port:
            heard = ask("live", host, port, 10)
    except OSError:
        assert ":" in listens
        pytest.skip("this machine has no IPv6")
    assert heard.why == f"{where}:{port} answered 404"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("probe nope", 2, "'live', 'ready', 'started', 'drained'"),
        ("probe live --metrics-listen off", 2, "--metrics-listen"),
        ("probe live --metrics-listen 9090", 2, "127.0.0.1:9090"),
        ("probe live --timeout soon", 2, "--timeout"),
        ("probe live --timeout 0.1m --metrics-listen 127.0.0.1:1", 1, "not live: 127.0.0.1:1 cannot be asked"),
        ("drain --pid 0", 2, "--pid"),
        ("drain --metrics-listen off", 2, "--metrics-listen"),
        ("drain --timeout soon", 2, "--timeout"),
        ("drain --pid 4194305", 2, "4194305 (no process)"),
    ],
)
def test_an_invalid_probe_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], words: str, status: int, message: str
) -> None:
    assert run(jobd.app, "jobd", words.split(), error_report) == status

    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_no_other_program_is_sent_the_signal_that_would_end_it(tmp_path: Path) -> None:
    named = tmp_path / "other"
    named.write_text("import signal\nsignal.sigwait([signal.SIGTERM])\n")
    child = subprocess.Popen([sys.executable, named, "run"])
    try:
        with pytest.raises(OptionError, match="the process id of a jobd run"):
            check_daemon(child.pid)
        with pytest.raises(OptionError, match="the process id of a jobd run"):
            check_daemon(os.getpid())
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("command", ["jobctl", "main"])
def test_an_interrupt_while_the_command_loads_prints_no_traceback(tmp_path: Path, command: str) -> None:
    slow = "import threading; print('loads', flush=True); threading.Event().wait()"
    (tmp_path / "typer.py").write_text(slow)
    code = f"import peerjob_probe; peerjob_probe.{command}()"
    with ChildProcess(
        [sys.executable, "-c", code, "--help"], output=tmp_path / "output", env={"PYTHONPATH": str(tmp_path)}
    ) as child:
        child.wait_for("loads")
        child.signal(signal.SIGINT)
        assert child.wait() == 130
        assert child.lines == ["loads"]


def test_an_interrupt_before_the_command_handles_it_prints_no_traceback(tmp_path: Path) -> None:
    code = "import signal, sys, peerjob_probe, peerjob.cli.jobctl as ctl\n"
    code += "def main(): signal.raise_signal(signal.SIGINT)\n"
    code += "ctl.main = main; peerjob_probe.jobctl()"
    with ChildProcess([sys.executable, "-c", code], output=tmp_path / "output") as child:
        assert child.wait() == 130
        assert child.lines == []


def test_a_command_that_was_started_to_ignore_interrupts_ignores_them(tmp_path: Path) -> None:
    code = "import signal, sys, peerjob_probe, peerjob.cli.jobctl as ctl\n"
    code += "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "def main(): signal.raise_signal(signal.SIGINT); print('goes on')\n"
    code += "ctl.main = main; peerjob_probe.jobctl()"
    with ChildProcess([sys.executable, "-c", code], output=tmp_path / "output") as child:
        assert child.wait() == 0
        assert child.lines == ["goes on"]
