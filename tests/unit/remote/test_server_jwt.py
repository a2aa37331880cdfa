"""Tokens of an identity provider: which ones a server accepts, and the rights that they give."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from peerjob import Job, Jwt, OptionError, Rights, Role, UnauthenticatedError
from peerjob.model.clock import to_datetime
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server import jwt as server_jwt
from peerjob.remote.server.jwt import parse_rights
from peerjob.testing.clock import VirtualClock
from support.rpc import raw_client, served
from support.waiting import PATIENCE

ISSUER, AUDIENCE = "https://id.example", "peerjob"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NEW_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, tuple[Any, str]] = {"rsa": (RSA_KEY, "RS256"), "ec": (NEW_KEY, "ES256"), "ed": (ED_KEY, "EdDSA")}
RIGHTS = parse_rights("rights", ["ops=admin", "mail-team=operator;kinds=mail.*;namespaces=default", "all=reader"])
Sign = Callable[..., str]


def jwks(*names: str) -> str:
    found: list[dict[str, Any]] = []
    for name in names:
        key, algorithm = KEYS[name]
        public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        found.append({**public, "kid": name, "use": "sig", "alg": algorithm})
    return json.dumps({"keys": [*found, {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}]})


@pytest.fixture
def sign(clock: VirtualClock) -> Sign:
    def make(key: str = "rsa", headers: dict[str, Any] | None = None, **changed: Any) -> str:
        now = clock.time_us() // 1_000_000
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 60, "roles": ["mail-team"], **changed}
        claims = {name: value for name, value in claims.items() if value is not None}
        private, algorithm = KEYS[key]
        return jwt.encode(claims, private, algorithm, headers={"kid": key, **(headers or {})})

    return make


@pytest.fixture
def accepted(clock: VirtualClock, tmp_path: Path) -> Jwt:
    (tmp_path / "jwks.json").write_text(jwks(*KEYS))
    return of(tmp_path / "jwks.json", clock)


def of(keys: str | Path, clock: VirtualClock, **options: Any) -> Jwt:
    given: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "rights": RIGHTS, **options}
    return Jwt(keys=keys, clock=clock, **given)


@pytest.mark.filterwarnings("ignore:The RSA key is")
@pytest.mark.parametrize(("bits", "accepted"), [(1024, False), (2047, False), (2048, True)])
async def test_a_short_rsa_key_signs_nothing(
    clock: VirtualClock,
    tmp_path: Path,
    sign: Sign,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bits: int,
    accepted: bool,
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    monkeypatch.setitem(KEYS, "short", (key, "RS256"))
    (tmp_path / "jwks.json").write_text(jwks("short", "ec"))
    verifier = of(tmp_path / "jwks.json", clock)

    assert await verifier.principal_of(sign("ec")) is not None
    if accepted:
        assert await verifier.principal_of(sign("short")) is not None
    else:
        with pytest.raises(UnauthenticatedError):
            await verifier.principal_of(sign("short"))
        assert f"at least 2,048 bits, this one has {bits:,}" in caplog.text


@pytest.mark.parametrize("key", KEYS)
async def test_a_token_gives_the_rights_of_its_claim_until_it_expires(
    accepted: Jwt, sign: Sign, clock: VirtualClock, key: str
) -> None:
    found = await accepted.principal_of(sign(key))

    assert found is not None
    assert (found.name, found.rights.role, found.rights.kinds) == ("alice", Role.OPERATOR, ("mail.*",))
    assert not found.rights.expired(clock.time_us() + 89_000_000), "the leeway is 30 s"
    assert found.rights.expired(clock.time_us() + 91_000_000)
    assert accepted.knows(found)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "https://other.example"}, "InvalidIssuerError"),
        ({"aud": "other"}, "InvalidAudienceError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"sub": None}, "MissingRequiredClaimError"),
        ({"sub": ""}, "sub is empty"),
        ({"exp": "soon"}, "no time"),
        ({"exp": 1e300}, "no time"),
        ({"nbf": 4_000_000_000}, "not valid yet"),
        ({"roles": ["cooks"]}, "gives no rights"),
        ({"roles": None}, "gives no rights"),
        ({"roles": {"mail-team": True}}, "gives no rights"),
        ({"headers": {"kid": "unknown"}}, "not known here"),
        ({"headers": {"kid": "shared"}}, "not known here"),
        ({"headers": {"kid": "ec"}}, "InvalidAlgorithmError|InvalidSignatureError|InvalidTokenError"),
    ],
)
async def test_other_tokens_are_refused(accepted: Jwt, sign: Sign, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(UnauthenticatedError, match=why):
        await accepted.principal_of(sign(**changed))


async def test_a_token_is_taken_from_its_nbf_on(accepted: Jwt, sign: Sign, clock: VirtualClock) -> None:
    now = clock.time_us() // 1_000_000
    assert await accepted.principal_of(sign(nbf=now + 29)) is not None, "the leeway is 30 s"
    with pytest.raises(UnauthenticatedError, match="not valid yet"):
        await accepted.principal_of(sign(nbf=now + 31))


@pytest.mark.parametrize("seconds", [10, 1_000])
async def test_rights_end_with_the_token_or_before(
    sign: Sign, clock: VirtualClock, tmp_path: Path, seconds: int
) -> None:
    (tmp_path / "jwks.json").write_text(jwks("rsa"))
    until = to_datetime(clock.time_us() + seconds * 1_000_000)
    jwt = of(tmp_path / "jwks.json", clock, rights={"mail-team": Rights(role=Role.READER, until=until)})
    found = await jwt.principal_of(sign())
    assert found is not None
    assert found.rights.until == min(until, to_datetime((clock.time_us() // 1_000_000 + 90) * 1_000_000))


async def test_a_token_that_is_not_signed_by_the_key_is_refused(accepted: Jwt, sign: Sign) -> None:
    head, body, signature = sign().split(".")
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def forged(algorithm: str, made: Callable[[bytes], bytes]) -> str:
        start = f"{_base64(json.dumps({'alg': algorithm, 'kid': 'rsa', 'typ': 'JWT'}).encode())}.{body}"
        return f"{start}.{_base64(made(start.encode()))}"

    tokens = [
        forged("none", lambda _: b""),
        forged("None", lambda _: b""),
        forged("HS256", lambda text: hmac.digest(public, text, hashlib.sha256)),
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{_base64(b'{}')}.{signature}",
        "a.b.c",
        "..",
    ]
    for token in tokens:
        with pytest.raises(UnauthenticatedError):
            await accepted.principal_of(token)
    assert await accepted.principal_of("pj_token") is None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("claim", "claims", "role"),
    [
        ("roles", {"roles": "all ops"}, Role.ADMIN),
        ("roles", {"roles": ["all", "mail-team"]}, Role.OPERATOR),
        ("realm_access.roles", {"realm_access": {"roles": ["all"]}}, Role.READER),
        ("https://x.example/roles", {"https://x.example/roles": ["ops"]}, Role.ADMIN),
    ],
)
async def test_the_first_entry_counts_whose_value_the_claim_has(
    sign: Sign, clock: VirtualClock, tmp_path: Path, claim: str, claims: dict[str, Any], role: Role
) -> None:
    (tmp_path / "jwks.json").write_text(jwks("rsa"))
    found = await of(tmp_path / "jwks.json", clock, claim=claim).principal_of(sign(**{"roles": None, **claims}))
    assert found is not None
    assert found.rights.role is role


class _Provider(http.server.ThreadingHTTPServer):
    """Serves keys on loopback."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.text = jwks("rsa")
        self.status = 200
        self.asked = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        provider = cast(_Provider, self.server)
        provider.asked += 1
        self.send_response(provider.status)
        self.send_header("Location", "/again")
        self.end_headers()
        self.wfile.write(provider.text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[_Provider]:
    with _Provider() as server:
        yield server
        server.shutdown()


async def test_the_keys_of_a_url_change(
    provider: _Provider, sign: Sign, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = of(f"http://127.0.0.1:{provider.server_port}/keys", clock)
    old = await accepted.principal_of(sign())
    assert old is not None
    for _ in range(20):
        with pytest.raises(UnauthenticatedError, match="not known here"):
            await accepted.principal_of(sign("ec"))
    assert provider.asked == 1, "unknown keys make no flood of requests"

    provider.text = jwks("ec")
    await clock.advance(11)
    assert await accepted.principal_of(sign("ec")) is not None
    assert (provider.asked, accepted.knows(old)) == (2, False)
    with pytest.raises(UnauthenticatedError, match="not known here"):
        await accepted.principal_of(sign("rsa"))

    for provider.status, provider.text in ((500, jwks("rsa")), (302, ""), (200, "no JSON"), (200, "x" * 300_000)):
        await clock.advance(11)
        with pytest.raises(UnauthenticatedError, match="not known here"):
            await accepted.principal_of(sign("rsa"))
        assert await accepted.principal_of(sign("ec")) is not None, "the old keys stay"
    assert provider.asked == 6
    assert caplog.text.count("the keys of the token issuer stay as they were") == 4


async def test_a_key_that_the_issuer_removes_or_replaces_ends_tokens_that_are_in_use(
    provider: _Provider, sign: Sign, clock: VirtualClock
) -> None:
    for changed in (jwks("ec"), jwks("rsa").replace('"e": "AQAB"', '"e": "AQAD"')):
        provider.text = jwks("rsa")
        accepted = of(f"http://127.0.0.1:{provider.server_port}/keys", clock)
        token = sign(exp=clock.time_us() // 1_000_000 + 3_600)
        known = await accepted.principal_of(token)
        assert known is not None
        provider.text = changed
        await clock.advance(301)
        assert await accepted.principal_of(token) == known, "old keys count until the new ones are there"
        reading = accepted._keys._reading  # pyright: ignore[reportPrivateUsage]
        assert reading is not None
        await reading
        assert not accepted.knows(known)
        with pytest.raises(UnauthenticatedError):
            await accepted.principal_of(token)


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256"])
async def test_a_key_without_an_algorithm_verifies_each_one_of_its_type(
    clock: VirtualClock, tmp_path: Path, algorithm: str
) -> None:
    keys = json.loads(jwks("rsa", "ec"))
    for key in keys["keys"]:
        key.pop("alg", None)
    (tmp_path / "jwks.json").write_text(json.dumps(keys))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": clock.time_us() // 1_000_000 + 60, "roles": "ops"}
    accepted = of(tmp_path / "jwks.json", clock)
    assert await accepted.principal_of(jwt.encode(claims, RSA_KEY, algorithm, headers={"kid": "rsa"})) is not None
    assert await accepted.principal_of(jwt.encode(claims, NEW_KEY, "ES256", headers={"kid": "ec"})) is not None


async def test_a_source_that_sends_byte_by_byte_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_jwt, "FETCH_SECONDS", 0.5)
    ended = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.is_set():
            writer.write(b"x")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.05)
        writer.transport.abort()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        accepted = Jwt(issuer=ISSUER, audience=AUDIENCE, keys=url, rights=RIGHTS)
        token = jwt.encode({"sub": "alice"}, RSA_KEY, "RS256", headers={"kid": "rsa"})
        try:
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(UnauthenticatedError, match="not known here"):
                    await accepted.principal_of(token)
            assert "the keys of the token issuer stay as they were" in caplog.text
        finally:
            ended.set()
            for thread in [one for one in threading.enumerate() if one.name == "peerjob-jwt-keys"]:
                await asyncio.to_thread(thread.join)


@pytest.mark.parametrize("keys", ["http://id.example/keys", "ftp://id.example/keys", "nowhere/jwks.json"])
def test_a_source_of_keys_that_is_none_is_refused(clock: VirtualClock, keys: str) -> None:
    with pytest.raises(OptionError, match=r"keys: expected a (file|URL)"):
        of(keys, clock)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": 1}', '{"keys": [1]}', "[" * 100_000])
def test_a_file_that_is_no_jwks_is_refused(clock: VirtualClock, tmp_path: Path, text: str) -> None:
    (tmp_path / "jwks.json").write_text(text)
    with pytest.raises(OptionError, match="keys: expected a JWKS"):
        of(tmp_path / "jwks.json", clock)


@pytest.mark.parametrize("name", ["issuer", "audience", "claim", "rights"])
def test_an_empty_option_is_refused(clock: VirtualClock, tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=name):
        of(tmp_path, clock, **{name: ""})


@pytest.mark.parametrize("text", ["ops", "=admin", "ops=boss", "ops=admin;kinds=", "ops=admin;kind=x", "mail=admin"])
def test_rights_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--jwt-rights"):
        parse_rights("--jwt-rights", ["mail=reader", text])


async def test_a_call_with_a_jwt_and_the_end_of_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jwks.json").write_text(jwks("rsa"))
    accepted = Jwt(
        issuer=ISSUER, audience=AUDIENCE, keys=tmp_path / "jwks.json", rights={"x": Rights(role=Role.READER)}, leeway=0
    )
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "roles": "x"}
    short, good = (
        jwt.encode({**claims, "exp": time.time() + seconds}, RSA_KEY, "RS256", headers={"kid": "rsa"})
        for seconds in (1, 60)
    )
    async with served(Job("work", lambda: None), jwt=accepted) as (_, server), raw_client(server.target) as client:
        watch = client.stream("Watch", pb.WatchRequest(), token=short)
        await watch.initial_metadata()
        assert await client.code("GetVersion", pb.VersionRequest(), token=good) is grpc.StatusCode.OK
        assert await client.code("Clear", pb.ClearRequest(), token=good) is grpc.StatusCode.PERMISSION_DENIED
        assert await client.code("GetVersion", pb.VersionRequest(), token="x.y.z") is grpc.StatusCode.UNAUTHENTICATED
        async with asyncio.timeout(60):
            assert await watch.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_subject_with_half_of_a_surrogate_pair_keeps_no_record_out_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(jwks("rsa"))
    accepted = Jwt(issuer=ISSUER, audience=AUDIENCE, keys=tmp_path / "jwks.json", rights=RIGHTS)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "roles": "ops", "exp": time.time() + 60}
    async with served(Job("work", str), jwt=accepted) as (node, server), raw_client(server.target) as client:
        for subject in ("\ud800", "alice"):
            token = jwt.encode({**claims, "sub": subject}, RSA_KEY, "RS256", headers={"kid": "rsa"})
            await client.call("ScheduleJob", pb.ScheduleJobRequest(kind="work"), token=token)
        await server.stop()
        assert [one.principal for one in await node.audit()] == ["alice", "\\ud800"]


def test_the_signatures_that_are_accepted_have_public_keys() -> None:
    assert not [one for many in server_jwt.ALGORITHMS.values() for one in many if one.startswith(("HS", "none"))]
