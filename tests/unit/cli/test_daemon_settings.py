"""Options of the daemon: where they come from, and that help and document list all of them."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from peerjob import OptionError, SystemClock
from peerjob.cli import jobd
from peerjob.cli.console import run
from peerjob.cli.daemon import daemon
from peerjob.cli.daemon.config_checks import check_configuration, exposed_files
from peerjob.cli.daemon.errors import error_report
from peerjob.cli.daemon.logs import LogFormat
from peerjob.cli.daemon.settings import DaemonSettings
from peerjob.model.findings import Severity

DOCUMENT = Path(__file__).parents[3] / "docs" / "jobd.md"
FLAGS = [f"--{one.name.replace('_', '-')}" for one in fields(DaemonSettings) if one.name != "jobs"]
Given = Callable[..., DaemonSettings]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Given:
    """What a daemon would be run with, for a command line."""
    taken: list[DaemonSettings] = []

    def take(settings: DaemonSettings) -> int:
        taken.append(settings)
        return 0

    monkeypatch.setattr(daemon, "run", take)
    monkeypatch.chdir(tmp_path)

    def parse(*arguments: str) -> DaemonSettings:
        assert run(jobd.app, "jobd", ["run", *arguments], error_report) == 0
        return taken[-1]

    return parse


def test_by_default_it_serves_this_machine_only(given: Given) -> None:
    assert given("app.jobs") == DaemonSettings(jobs=["app.jobs"])
    assert given().listen == "127.0.0.1:59051"
    assert given().metrics_listen == "127.0.0.1:9090"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("jobd.toml").write_text("workers = 1\nrate = 1\ngrace = 1\n")
    monkeypatch.setenv("PEERJOB_WORKERS", "2")
    monkeypatch.setenv("PEERJOB_RATE", "2")

    found = given("--config", "jobd.toml", "--workers", "3")

    assert (found.workers, found.rate, found.grace_seconds) == (3, 2.0, 1.0)


def test_a_file_may_say_everything(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("jobd.toml").write_text(
        'jobs = ["a", "b"]\ninsecure = true\n[log]\nformat = "json"\n[tls]\ncert = "c"\nkey = "k"\nclient-ca = "ca"\n'
    )
    monkeypatch.setenv("PEERJOB_JOBD_CONFIG", "jobd.toml")

    found = given()

    assert (found.jobs, found.insecure, found.log_format) == (["a", "b"], True, LogFormat.JSON)
    assert (found.tls_cert, found.tls_key, found.tls_client_ca) == (Path("c"), Path("k"), Path("ca"))


def test_one_module_in_a_file_and_several_in_the_environment(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("jobd.toml").write_text('jobs = "a"\n')
    assert given("--config", "jobd.toml").jobs == ["a"]

    monkeypatch.setenv("PEERJOB_JOBS", "b c")
    assert given("--config", "jobd.toml").jobs == ["b", "c"]
    assert given("d", "--config", "jobd.toml").jobs == ["d"]


def test_the_url_of_the_stronger_place_counts(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("redis://of-the-file\n")
    assert given("--store-file", "secret").store == "redis://of-the-file"
    assert given("--coordinator-file", "secret").coordinator == "redis://of-the-file"

    monkeypatch.setenv("PEERJOB_STORE_FILE", "secret")
    assert given().store == "redis://of-the-file"
    assert given("--store", "redis://of-the-flag").store == "redis://of-the-flag"

    Path("jobd.toml").write_text('store = "redis://of-the-toml"\n')
    assert given("--config", "jobd.toml").store == "redis://of-the-file"


@pytest.mark.parametrize(
    ("arguments", "toml", "message"),
    [
        (["--store", "redis://a:hidden@b", "--store-file", "secret"], "", "one of them"),
        (["--store-file", "none"], "", "none"),
        (["--config", "none.toml"], "", "none.toml"),
        (["--config", "jobd.toml"], "workers = ", "TOML"),
        (["--config", "jobd.toml"], "nope = 1", "one of allow-references"),
        (["--config", "jobd.toml"], "[tls]\nnope = 1", "tls-nope"),
        (["--config", "jobd.toml"], "config = 'other.toml'", "one of allow-references"),
        (["--grace", "soon"], "", "--grace"),
        (["--grace", "-1s"], "", "--grace"),
        (["--log-level", "loud"], "", "--log-level"),
        (["--rate", "0"], "", "--rate"),
        (["--trusted-proxy", "10.0.0.7", "--trusted-proxy", "proxy.example"], "", "--trusted-proxy"),
        (["--trusted-proxy", "0.0.0.0/0"], "", "0.0.0.0/0"),
        (["--tls-client-ca", "ca.pem"], "", "--tls-cert and --tls-key"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    given: Given, capsys: pytest.CaptureFixture[str], arguments: list[str], toml: str, message: str
) -> None:
    Path("secret").write_text("redis://x")
    Path("jobd.toml").write_text(toml)

    assert run(jobd.app, "jobd", ["run", *arguments], error_report) == 2

    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert "hidden" not in err


def test_settings_made_by_hand_are_checked_too() -> None:
    with pytest.raises(OptionError, match="--tls-cert"):
        DaemonSettings(tls_cert=Path("cert.pem"))


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_help_tells_every_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(jobd.app, "jobd", [command, "--help"], error_report) == 0

    shown = capsys.readouterr().out
    assert [flag for flag in FLAGS if f"{flag} " not in shown] == []
    assert shown.count("[default: ") >= len(FLAGS) - 3  # but for switches


def test_the_document_tells_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| `(--[\w-]+)` \| `(\w+)` \| (.+?) \|", DOCUMENT.read_text(), re.MULTILINE)

    assert [flag for flag, _, _ in rows] == FLAGS
    for flag, variable, default in rows:
        one = next(one for one in fields(DaemonSettings) if one.name == flag[2:].replace("-", "_"))
        assert variable == ("PEERJOB_JOBD_CONFIG" if flag == "--config" else f"PEERJOB_{one.name.upper()}")
        if default.startswith("`"):
            assert default == f"`{one.default}`"
        else:
            assert one.default in (None, False, Path())


@pytest.mark.parametrize("service", [[], ["--listen", "off"]], ids=["service", "no-service"])
@pytest.mark.parametrize(
    "bad", [f"--{one.name.replace('_', '-')}" for one in fields(DaemonSettings) if one.name.endswith("listen")]
)
def test_the_check_refuses_each_address_that_a_start_refuses(given: Given, bad: str, service: list[str]) -> None:
    settings = given(*service, bad, "nowhere")
    _, findings = check_configuration(settings, SystemClock())
    assert [one.text for one in findings if one.verdict is Severity.FAIL]


def test_files_that_others_can_write_or_read_are_named(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tokens", "key", "cert", "ca", "store", "coordinator", "outbox")}
    for file in files.values():
        file.write_text("")
        file.chmod(0o640)
    settings = DaemonSettings(
        tls_cert=files["cert"],
        tls_key=files["key"],
        tls_client_ca=files["ca"],
        tokens_file=files["tokens"],
        store_file=files["store"],
        coordinator_file=files["coordinator"],
        outbox_file=files["outbox"],
    )
    assert exposed_files(settings) == []
    secret = [(name, 0o026) for name in ("key", "store", "coordinator", "outbox")]
    for name, exposing in (("tokens", 0o022), ("ca", 0o022), ("cert", 0), *secret):
        for right in (0o020, 0o040, 0o002, 0o004):
            files[name].chmod(0o600 | right)
            message = exposed_files(settings)
            assert [str(files[name]) in one for one in message] == [True] * bool(right & exposing), (name, oct(right))
        files[name].chmod(0o400)
    files["tokens"].unlink()
    assert exposed_files(settings) == []
