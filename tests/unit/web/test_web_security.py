"""What the dashboard refuses: other sites, other hosts, guessed tokens, and text that would be markup."""

import html
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from peerjob import Job, Node, Role, StoreUnavailableError, Token, Tokens
from peerjob.testing.clock import VirtualClock
from peerjob.web import SignIn, dashboard
from peerjob.web.links import Links, safe_link, text_of_part
from peerjob.web.pages import ROUTES
from peerjob.web.security import COOKIE, MAX_FORM, TOKEN_FIELD, form_token
from peerjob.web.signin import ATTEMPTS
from support.dashboards import allowing, browsing, pages_of, session_of, submit

ACTIONS = [route for route in ROUTES if route.verb is not None]
FORM = {"content-type": "application/x-www-form-urlencoded"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}${7*7}<%= 7*7 %>",
    "javascript:alert(1)",
    "\x1b]0;title\x07\x1b[2J",
    "\u202egnp.exe\u2066\u200f",
    "</textarea></pre></title><svg onload=alert(1)>",
]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with Node("memory://", jobs=Job("echo", str), workers=0) as started:
        yield started


# -- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ACTIONS, ids=lambda route: route.path)
async def test_each_form_needs_its_role(node: Node, route: object) -> None:
    form = next(one for one in ACTIONS if one is route)
    for role in Role:
        async with pages_of(node, role) as client:
            answer = await submit(client, form.path)
            assert (answer.status_code == 403 and "needs the role" in answer.text) == (role < form.role)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": ""},
    ],
)
async def test_a_form_of_another_site_does_nothing(node: Node, headers: dict[str, str]) -> None:
    made = await node.schedule("echo", 1)
    async with pages_of(node) as client:
        await client.get("/")
        token = form_token(session_of(client))
        answer = await client.post("/instance/cancel", data={TOKEN_FIELD: token, "id": made.id}, headers=headers)
    assert answer.status_code == 403
    assert not (await made.refresh()).state.is_final


@pytest.mark.parametrize(
    ("origin", "done"),
    [
        ("http://jobs.example", True),
        ("https://jobs.example", True),
        ("http://evil.example", False),
        ("http://jobs.example.evil.example", False),
        ("http://jobs.example:81", False),
        ("null", False),
        ("", False),
    ],
)
async def test_an_old_browser_sends_the_origin(node: Node, origin: str, done: bool) -> None:
    made = await node.schedule("echo", 1)
    async with pages_of(node) as client:
        await client.get("/")
        token = form_token(session_of(client))
        del client.headers["sec-fetch-site"]
        headers = {"origin": origin} if origin else {}
        answer = await client.post("/instance/cancel", data={TOKEN_FIELD: token, "id": made.id}, headers=headers)
    assert (answer.status_code == 303) is done
    assert (await made.refresh()).state.is_final is done


async def test_a_form_needs_the_token_of_its_session(node: Node) -> None:
    made = await node.schedule("echo", 1)
    async with pages_of(node) as client, pages_of(node) as other:
        await client.get("/")
        await other.get("/")
        for token in ("", "x", "é", form_token(""), form_token(session_of(other))):
            answer = await client.post("/instance/cancel", data={TOKEN_FIELD: token, "id": made.id})
            assert answer.status_code == 403, token
        client.cookies.clear()
        for token in ("", form_token("")):
            assert (await client.post("/instance/cancel", data={TOKEN_FIELD: token, "id": made.id})).status_code == 403
    assert not (await made.refresh()).state.is_final


async def test_forms_are_limited(node: Node) -> None:
    async with pages_of(node) as client:
        large = await submit(client, "/instance/again", id="x" * MAX_FORM)
        many = await client.post("/instance/cancel", content="a=1&" * 2_000, headers=FORM)
        other = await client.post("/instance/cancel", json={})
        bad = await client.post("/instance/cancel", content=b"\xff", headers=FORM)
    assert [one.status_code for one in (large, many, other, bad)] == [413, 400, 415, 400]


async def test_a_refused_form_is_logged_and_not_stored(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "peerjob.audit")
    async with pages_of(node, Role.READER) as client:
        await submit(client, "/instance/cancel", id="x")
    assert [vars(one)["audit"]["result"] for one in caplog.records if one.name == "peerjob.audit"] == ["denied"]
    await node.audit_trail.flush()
    assert await node.audit() == []


# -- sessions, hosts, frames -----------------------------------------------------------------------------------------


async def test_the_cookie_is_for_this_site_only(node: Node) -> None:
    app = dashboard(node, authorize=allowing(Role.READER))
    async with browsing(app) as plain, browsing(app) as secure:
        secure.base_url = httpx.URL("https://jobs.example")
        cookies = [(await client.get("/")).headers["set-cookie"] for client in (plain, secure)]
    for cookie in cookies:
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
    assert ["Secure" in cookie for cookie in cookies] == [False, True]


async def test_a_link_from_another_site_opens_the_page_again(node: Node) -> None:
    async with pages_of(node) as client:
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        answer = await client.get("/instances?kind=%22%3E%3Cb%3E", headers=headers)
    assert "set-cookie" not in answer.headers
    assert 'content="0;url=/instances?kind=%22%3E%3Cb%3E"' in answer.text


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "//evil.example/?a=1", "/%5Cevil.example"])
async def test_a_link_from_another_site_leads_to_no_other_site(node: Node, path: str) -> None:
    async with pages_of(node) as client:
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        request = client.build_request("GET", "/", headers=headers)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await client.send(request)
    assert 'content="0;url=/"' in answer.text
    assert "evil" not in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST", 200),
        ("evil.example", 400),
        ("evil.example:8080", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
async def test_only_known_hosts_are_answered(node: Node, host: str, status: int) -> None:
    async with pages_of(node, hosts=["localhost", "127.0.0.1", "[::1]"]) as client:
        answer = await client.get("/", headers={"host": host})
    assert answer.status_code == status
    assert "content-security-policy" in answer.headers


async def test_frames_are_refused_unless_allowed(node: Node) -> None:
    async with pages_of(node) as client, pages_of(node, frame_ancestors="https://portal.example") as framed:
        refused, allowed = await client.get("/"), await framed.get("/")
    assert refused.headers["x-frame-options"] == "DENY"
    assert "x-frame-options" not in allowed.headers
    assert "frame-ancestors https://portal.example;" in allowed.headers["content-security-policy"]


async def test_a_static_file_is_kept_only_if_its_release_answers(node: Node) -> None:
    async with pages_of(node) as client:
        page = (await client.get("/")).text
        link = re.search(r'/static/app\.js\?v=[^"]+', page)
        assert link
        kept = ["public, max-age=86400", "no-cache", "no-cache", "no-cache", "no-store"]
        # during an upgrade, the page of a new release can ask an old one for a file
        links = [link[0], "/static/app.js?v=next", "/static/app.js", link[0].replace("app", "next"), "/"]
        assert [(await client.get(one)).headers["cache-control"] for one in links] == kept
    async with browsing(dashboard(node, authorize=SignIn([TOKENS], clock=node.clock))) as client:
        linked = re.findall(r'"(/static/[^"]+)"', (await client.get("/signin")).text)
        assert len(linked) == 2
        assert {(await client.get(one)).headers["cache-control"] for one in linked} == {kept[0]}


# -- signing in ------------------------------------------------------------------------------------------------------

TOKENS = Tokens(
    [
        Token.of("read", Role.READER, "rita"),
        Token.of("act", Role.OPERATOR, "otto"),
        Token.of("limited", Role.ADMIN, "lim", kinds=["mail.*"]),
        Token.of("elsewhere", Role.ADMIN, "else", namespaces=["other"]),
    ]
)


async def _sign_in(client: httpx.AsyncClient, token: str, to: str = "/") -> httpx.Response:
    await client.get("/signin")
    fields = {TOKEN_FIELD: form_token(session_of(client)), "token": token, "to": to}
    return await client.post("/signin", data=fields)


async def test_a_token_opens_the_pages_and_signing_out_closes_them(node: Node) -> None:
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock, namespace=node.namespace))
    async with browsing(app) as client:
        before = await client.get("/instances?kind=a")
        assert (before.status_code, before.headers["location"]) == (303, "/signin?to=%2Finstances%3Fkind%3Da")
        known = session_of(client)
        entered = await _sign_in(client, "act", "/instances?kind=a")
        assert (entered.status_code, entered.headers["location"]) == (303, "/instances?kind=a")
        assert client.cookies[COOKIE] != known, "an id from before the sign-in is worth nothing"
        page = await client.get("/instances")
        assert "otto (operator)" in page.text
        session = client.cookies[COOKIE]
        left = await submit(client, "/signout")
        assert left.headers["location"] == "/signin"
        client.cookies.set(COOKIE, session)
        assert (await client.get("/instances")).status_code == 303


async def test_a_late_answer_from_before_a_sign_in_does_not_end_it(node: Node) -> None:
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock, namespace=node.namespace))
    async with browsing(app) as client:
        await client.get("/signin")
        # on a slow network, the browser gets these answers after that of the sign-in
        late = [await client.get("/favicon.ico"), await client.get("/signin"), await _sign_in(client, "wrong")]
        assert (await _sign_in(client, "read")).status_code == 303
        assert "set-cookie" in (await _sign_in(client, "read")).headers
    assert ["set-cookie" in one.headers for one in late] == [False] * 3


async def test_a_page_that_asked_before_a_sign_in_leads_back_after_it(node: Node) -> None:
    async with browsing(dashboard(node, authorize=SignIn([TOKENS], clock=node.clock))) as client:
        sent_to = (await client.get("/kinds?q=a")).headers["location"]
        await _sign_in(client, "read")
        back = await client.get(sent_to)
        elsewhere = await client.get("/signin?to=//evil.example")
    assert [one.status_code for one in (back, elsewhere)] == [303, 303]
    assert [one.headers["location"] for one in (back, elsewhere)] == ["/kinds?q=a", "/"]


async def test_a_form_without_a_sign_in_tells_how_it_is_kept(node: Node) -> None:
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock, namespace=node.namespace))
    async with browsing(app) as client:
        await _sign_in(client, "act")
        left = [await submit(client, "/signout") for _ in range(2)]
        answer = await submit(client, "/kinds/schedule", kind="echo")
        wrong = await client.post("/signin", data={TOKEN_FIELD: "of an old page", "token": "act", "to": "/kinds"})
    assert [(one.status_code, one.headers["location"]) for one in left] == [(303, "/signin")] * 2
    # on a slow network, the answer to a sign-out can come after that of the next sign-in
    assert not any("set-cookie" in one.headers for one in left)
    assert answer.status_code == 403
    assert "You are signed out, so nothing was done." in answer.text
    assert '<a href="/signin" target="_blank"' in answer.text
    assert 'name="to" value="/kinds"' in wrong.text


@pytest.mark.parametrize("token", ["", "wrong", "elsewhere"])
async def test_other_tokens_do_not_sign_in(node: Node, token: str) -> None:
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock, namespace=node.namespace))
    async with browsing(app) as client:
        answer = await _sign_in(client, token)
        assert answer.status_code == 403
        assert 'role="alert"' in answer.text
        assert (await client.get("/")).status_code == 303


async def test_a_token_that_is_limited_to_kinds_signs_in(node: Node) -> None:
    await node.schedule("echo", 1)
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock, namespace=node.namespace))
    async with browsing(app) as client:
        assert (await _sign_in(client, "limited")).status_code == 303
        page = await client.get("/instances")
    assert "lim (admin of mail.*)" in page.text
    assert "echo" not in page.text


async def test_a_withdrawn_token_ends_its_session(node: Node) -> None:
    class Changing(Tokens):
        withdrawn = False

        def knows(self, principal: object) -> bool:
            return not self.withdrawn

    tokens = Changing([Token.of("read", Role.READER)])
    async with browsing(dashboard(node, authorize=SignIn([tokens], clock=node.clock))) as client:
        await _sign_in(client, "read")
        assert (await client.get("/")).status_code == 200
        tokens.withdrawn = True
        assert (await client.get("/")).status_code == 303


async def test_guessing_is_limited_for_each_address(clock: VirtualClock) -> None:
    async with Node("memory://", clock=clock) as node:
        app = dashboard(node, authorize=SignIn([TOKENS], clock=clock))
        async with browsing(app) as client:
            answers = [(await _sign_in(client, f"guess {number}")).status_code for number in range(ATTEMPTS + 2)]
            assert answers == [403] * ATTEMPTS + [429] * 2
            assert (await _sign_in(client, "read")).status_code == 429
            await clock.advance(60)
            assert (await _sign_in(client, "read")).status_code == 303


@pytest.mark.parametrize("trusted", [True, False])
async def test_guessing_behind_a_proxy_locks_out_the_guesser_only_if_the_proxy_is_trusted(
    clock: VirtualClock, trusted: bool
) -> None:
    """The client of `browsing` is 192.0.2.7: here, a proxy on another machine."""
    proxies = ["192.0.2.0/28"] if trusted else ["127.0.0.1", "198.51.100.9"]
    async with Node("memory://", clock=clock) as node:
        app = dashboard(node, authorize=SignIn([TOKENS], clock=clock), trusted_proxies=proxies)
        async with browsing(app) as guesser, browsing(app) as other:
            guesser.headers["X-Forwarded-For"] = "203.0.113.66"
            other.headers["X-Forwarded-For"] = "203.0.113.5"
            for number in range(ATTEMPTS):
                # what a caller writes itself is before the address that the proxy adds
                guesser.headers["X-Forwarded-For"] = f"10.0.0.{number}, 203.0.113.66"
                assert (await _sign_in(guesser, "guess")).status_code == 403
            assert (await _sign_in(guesser, "guess")).status_code == 429
            assert (await _sign_in(other, "read")).status_code == (303 if trusted else 429)


@pytest.mark.parametrize(
    ("trusted", "scheme", "secure"), [(True, "https", True), (True, "javascript", False), (False, "https", False)]
)
async def test_a_trusted_proxy_says_whether_the_caller_uses_tls(
    node: Node, trusted: bool, scheme: str, secure: bool
) -> None:
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock), trusted_proxies=["192.0.2.7"] * trusted)
    async with browsing(app) as client:
        answer = await client.get("/signin", headers={"X-Forwarded-Proto": scheme})
    assert ("Secure" in answer.headers["set-cookie"]) == secure


async def test_a_sign_in_of_another_site_does_nothing(node: Node) -> None:
    async with browsing(dashboard(node, authorize=SignIn([TOKENS], clock=node.clock))) as client:
        await client.get("/signin")
        fields = {TOKEN_FIELD: form_token(session_of(client)), "token": "read"}
        crossed = await client.post("/signin", data=fields, headers={"sec-fetch-site": "cross-site"})
        without = await client.post("/signin", data={"token": "read"})
    assert (crossed.status_code, without.status_code) == (403, 403)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("/instances?kind=a", "/instances?kind=a"),
        ("/", "/"),
        ("", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("/../evil", "/"),
        ("/instances/../../evil", "/"),
        ("/%2e%2e/evil", "/"),
        ("/instances/.%2E/evil", "/"),
        ("/./%2e/", "/"),
        ("/..", "/"),
        ("/%2F/evil.example", "/"),
        ("/kinds/a%3Fb%23c%25?q=..", "/kinds/a%3Fb%23c%25?q=.."),
        ("/kinds/a..b", "/kinds/a..b"),
    ],
)
def test_a_link_leads_to_this_dashboard_only(text: str, link: str) -> None:
    assert safe_link(text) == link


@pytest.mark.parametrize(
    "text", ["a?b", "a#b", "a%b", "a%3Fb", "a/b", "/a", "a b", "ä", "a&b=c", "a+b", "~", "..", "."]
)
async def test_a_sign_in_leads_back_to_a_page_with_any_name(node: Node, text: str) -> None:
    await node.schedule(Job(text, str).with_options(after="1h"), 1)
    app = dashboard(node, authorize=SignIn([TOKENS], clock=node.clock, namespace=node.namespace))
    async with browsing(app) as client:
        page = Links(root="").url(f"/kinds/{Links(root='').part(text)}")
        asked = await client.get(page)
        back = httpx.URL(asked.headers["location"]).params["to"]
        entered = await _sign_in(client, "act", back)
        shown = await client.get(entered.headers["location"])
    assert f"<h1>{html.escape(text)}</h1>" in shown.text


@pytest.mark.parametrize("text", [".", "..", "~.", "~~..", "~", "a/..", "...", "~a"])
def test_a_name_is_no_folder_of_a_link(text: str) -> None:
    part = Links(root="").part(text)
    assert httpx.URL("http://jobs.example/schedules/").join(part).path.startswith("/schedules/")
    assert part not in (".", "..")
    assert text_of_part(unquote(part)) == text


async def test_the_names_of_clusters_are_told_after_the_sign_in_only(node: Node) -> None:
    app = dashboard({"eu": node, "us": node}, authorize=SignIn([TOKENS], clock=node.clock))
    async with browsing(app) as client:
        links = {(await client.get(f"/{name}/kinds")).headers["location"] for name in ("eu", "us", "other")}
        assert links == {f"/signin?to=%2F{name}%2Fkinds" for name in ("eu", "us", "other")}
        assert "/eu/" not in (await client.get("/signin")).text
        await _sign_in(client, "read")
        assert (await client.get("/other/kinds")).headers["location"] == "/"
        assert 'href="/eu/"' in (await client.get("/")).text
    async with pages_of({"eu": node}, None) as client:
        answers = [await client.get(path) for path in ("/eu/", "/other/", "/")]
    assert {(one.status_code, one.text) for one in answers} == {(403, answers[0].text)}


# -- what authorize returns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "logged"),
    [
        (True, "must return a Role, a Principal or None, got bool for GET /kinds"),
        ("admin", "got str"),
        (3, "got int"),
        (OSError("the user table is away"), "authorize failed for GET /kinds"),
    ],
)
async def test_a_wrong_answer_of_authorize_is_logged_and_refused(
    node: Node, caplog: pytest.LogCaptureFixture, found: Any, logged: str
) -> None:
    async def allow(request: Request) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    async with browsing(dashboard(node, authorize=allow)) as client:
        answer = await client.get("/kinds")
    assert answer.status_code == 500
    assert "The application could not tell what you may do" in answer.text
    assert "content-security-policy" in answer.headers
    (record,) = [one for one in caplog.records if one.name == "peerjob.web"]
    assert logged in record.getMessage()
    assert (record.exc_info is not None) == isinstance(found, Exception)


async def test_an_answer_of_the_applications_own_passes(node: Node) -> None:
    async def allow(request: Request) -> Role:
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})

    async with browsing(dashboard(node, authorize=allow)) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Basic")


# -- text of users ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_of_users_is_never_markup(text: str) -> None:
    kind = text.replace("\x07", "")

    async def fail(value: str) -> None:
        raise ValueError(value)

    job = Job(kind, fail, max_retries=0, tags=[kind], description=text)
    async with Node("memory://", jobs=job) as node, pages_of(node) as client:
        made = await node.schedule(job, text)
        await made.wait(30)
        paths = ["/", "/instances", f"/instances/{made.id}", f"/instance/again?id={made.id}", "/search"]
        for path in paths:
            answer = await client.get(path, params={"q": text} if path == "/search" else {})
            _check_inert(answer.text, text)
        failed = await submit(client, "/instance/again", id=made.id, arguments=text)
        _check_inert(failed.text, text)
        listed = await client.get("/instances", params={"kind": kind, "tag": kind, "error": text})
        _check_inert(listed.text, text)


def _check_inert(page: str, text: str) -> None:
    if re.search("[<>\"']", text):
        assert text not in page
    assert "49" not in re.findall(r">\s*(49)\s*<", page), "the text was evaluated"
    seen = re.sub('<input type="hidden"[^>]*>', "", page)  # they give back names and filters as they are
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", html.unescape(seen))
    found = _Tags()
    found.feed(page)
    assert not [one for one in found.tags if one[0] in ("img", "iframe", "object", "embed")]
    for tag, values in found.tags:
        assert not [name for name in values if name.startswith("on") or name == "style"], tag
        assert not (values.get("href") or "/").strip().lower().startswith("javascript:")
        assert tag != "script" or (values.get("src") or "").startswith("/static/")


class _Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


# -- the store is away -----------------------------------------------------------------------------------------------


async def test_a_page_stays_while_the_store_is_away(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Node("memory://", jobs=Job("echo", str), workers=0, clock=clock) as node, pages_of(node) as client:
        await node.schedule("echo", 1)
        assert "echo" in (await client.get("/instances")).text
        assert "echo" in (await client.get("/")).text

        async def away(*args: object, **kwargs: object) -> None:
            raise StoreUnavailableError("memory://", "it is away")

        for verb in ("lookup_instances", "stats", "nodes"):
            monkeypatch.setattr(node, verb, away)
        await clock.advance(90)
        again, other, overview = (
            await client.get("/instances"),
            await client.get("/instances?kind=echo"),
            await client.get("/"),
        )
    assert again.status_code == 200
    assert "This page shows the state of" in again.text
    assert "90s ago" in again.text
    assert "echo" in again.text
    assert form_token(session_of(client)) in again.text
    assert (other.status_code, "Nothing to show" in other.text) == (503, True)
    assert overview.status_code == 200
    assert "it is away" in overview.text


async def test_a_page_that_is_kept_has_no_form_of_another_session(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Node("memory://", jobs=Job("echo", str), workers=0, clock=clock) as node:
        app = dashboard(node, authorize=allowing(Role.OPERATOR))
        made = await node.schedule("echo", 1)
        async with browsing(app) as ann, browsing(app) as ben:
            for client in (ann, ben):
                await client.get("/")
            first = (await ann.get(f"/instances/{made.id}")).text

            async def away(*args: object, **kwargs: object) -> None:
                raise StoreUnavailableError("memory://", "it is away")

            monkeypatch.setattr(node, "lookup_instance", away)
            kept = (await ben.get(f"/instances/{made.id}")).text
            tokens = [form_token(session_of(client)) for client in (ann, ben)]
    assert tokens[0] in first
    assert "This page shows the state of" in kept
    assert [token in kept for token in tokens] == [False, True]
