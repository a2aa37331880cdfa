"""jobctl at nodes that refuse it, and at nodes that go away."""

import signal
import sys
import threading
from pathlib import Path

import pytest

from peerjob import Role
from peerjob.remote.server.tokens import hash_token
from support.etcd import Certificates
from support.jobctl import Answer, Jobctl, begun, serving
from support.jobd import Jobd, target
from support.processes import ChildProcess
from support.servers import Server
from support.waiting import PATIENCE

TOKENS = {"reads": Role.READER, "acts": Role.OPERATOR}


def test_a_refused_client_learns_the_reason(jobd: Jobd, signed: Certificates, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{role.name.lower()} {hash_token(token)}\n" for token, role in TOKENS.items()))
    secured = ("--tls-cert", str(signed.server_cert), "--tls-key", str(signed.server_key), "--tokens-file", str(tokens))
    jobctl = Jobctl(
        {"PEERJOB_ADDRESS": target(serving(jobd, "memory://", "default", "one", *secured))},
    )
    ca = ("--tls-ca", str(signed.ca))

    assert jobctl("schedule", "add", "1", "2", "-w", *ca, "--token", "acts").status == 0
    assert jobctl("list", "jobs", *ca, PEERJOB_TOKEN="reads").status == 0

    anonymous = jobctl("list", "jobs", *ca)
    assert (anonymous.status, "--token-file" in anonymous.err) == (5, True)
    assert jobctl("list", "jobs", *ca, "--token", "guessed").status == 5
    reader = jobctl("cancel", "instances", "--all", *ca, "--token", "reads")
    assert (reader.status, "needs the role operator" in reader.err) == (5, True)
    plain = jobctl("list", "jobs", "--token", "acts")
    assert (plain.status, "uses TLS, and jobctl does not: set --tls-ca" in plain.err) == (4, True)
    for refused in (anonymous, reader, plain):
        assert (refused.out, len(refused.err.splitlines())) == ("", 1)


def test_a_context_of_the_file_sets_address_and_credentials(jobd: Jobd, signed: Certificates, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"reader {hash_token('reads')}\n")
    secured = ("--tls-cert", str(signed.server_cert), "--tls-key", str(signed.server_key), "--tokens-file", str(tokens))
    address = target(serving(jobd, "memory://", "default", "one", *secured))
    config = tmp_path / "config.toml"
    config.write_text(
        f'[contexts.prod]\naddress = "{address}"\ntls-ca = "{signed.ca}"\ntoken = "reads"\n'
        '[contexts.away]\naddress = "127.0.0.1:1"\n'
    )
    jobctl = Jobctl({"PEERJOB_CONFIG": str(config)})
    assert jobctl("--context", "prod", "list", "nodes", "-o", "name").lines == ["one"]
    assert jobctl("list", "nodes", "--context", "away").status == 4
    assert jobctl("list", "nodes", "--context", "none").status == 2


@pytest.mark.matrix("waits for a lease; make test kills a node under a client")
def test_logs_are_followed_beyond_the_death_of_the_node_that_runs_and_answers(
    jobd: Jobd, redis_server: Server, namespace: str
) -> None:
    lease = ("--lease-ttl", "5s")  # what the dead one held is run again when it has ended
    nodes = {name: serving(jobd, redis_server.url, namespace, name, *lease) for name in ("first", "second")}
    jobctl = Jobctl({"PEERJOB_ADDRESS": target(nodes["first"])})
    uuid = jobctl("schedule", "slow", "5", "1", "-o", "name").out.strip()
    victim = begun(jobctl, uuid)
    (survivor,) = nodes.keys() - {victim}
    addresses = Jobctl({"PEERJOB_ADDRESS": f"{target(nodes[victim])},{target(nodes[survivor])}"})
    found: list[Answer] = []
    following = threading.Thread(target=lambda: found.append(addresses("logs", uuid, "-f", "-o", "wide")))
    following.start()
    nodes[victim].kill()
    following.join(PATIENCE)

    (answer,) = found
    assert answer.lines
    assert f" {survivor}/" in answer.lines[-1]
    assert answer.lines[-1].endswith("line 4")


def test_ctrl_c_ends_what_goes_on_without_a_word(jobd: Jobd, tmp_path: Path) -> None:
    address = target(serving(jobd, "memory://", "default"))
    uuid = Jobctl({"PEERJOB_ADDRESS": address})("schedule", "slow", "1", "100", "-o", "name").out.strip()
    following = ChildProcess(
        [Path(sys.executable).with_name("jobctl"), "logs", "-f", uuid, "--address", address], output=tmp_path / "output"
    )
    with following:
        following.wait_for("line 0")
        following.signal(signal.SIGINT)
        assert following.wait() == 130
        assert len(following.lines) == 1
