"""What a caller that is limited to kinds sees and does: the pages, and the verbs behind them and behind the RPCs."""

from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from starlette.requests import Request

from peerjob import INJECTED, Context, Instance, Job, Node, Principal, Query, Rights, Role
from peerjob.handles.kind_scope import KindScope
from peerjob.handles.scoped_manager import ScopedManager
from peerjob.model.errors import AuthError, UnknownKindError
from peerjob.model.worker import Worker
from peerjob.testing.clock import VirtualClock
from peerjob.web import dashboard
from peerjob.web.pages import ROUTES
from support.dashboards import browsing

OWN, OTHER = "mail.send", "bank.login"
RIGHTS = Rights(role=Role.READER, kinds=("mail.*",))
PAGES: dict[str, tuple[int, int]] = {
    # the answers to rights for mail.*: about mail.send, and the same about bank.login
    **dict.fromkeys(["/", "/instances", "/schedules", "/kinds", "/limits", "/nodes", "/search"], (200, 200)),
    **dict.fromkeys(["/instances/{id}", "/instances/{id}/{what}", "/instance/again"], (200, 404)),
    **dict.fromkeys(["/schedules/{name:path}", "/fires/{name:path}", "/fires.csv/{name:path}"], (200, 404)),
    "/kinds/{kind:path}": (200, 403),
    "/audit": (403, 403),
    "/{path:path}": (404, 404),
    "/live/instances/{id}": (200, 404),
    "/live/instances": (200, 200),
    "/live/overview": (200, 200),
}
ENDLESS = ("/live/instances", "/live/overview")


async def log(text: str, instance: Instance[str] = INJECTED, context: Context = INJECTED) -> str:
    instance.log.info("%s", text)
    return text


JOBS = [Job(kind, log) for kind in (OWN, OTHER)]


@pytest.mark.parametrize("kinds", [(), ("mail.*",)], ids=["all kinds", "some kinds"])
@pytest.mark.parametrize("role", Role, ids=lambda role: role.name)
async def test_every_reader_every_page_and_every_kind(role: Role, kinds: tuple[str, ...], clock: VirtualClock) -> None:
    async def allow(request: Request) -> Principal:
        return Principal(name="ann", rights=Rights(role=role, kinds=kinds))

    shown = {route.path: route for route in ROUTES if route.verb is None}
    assert shown.keys() == PAGES.keys()
    async with Node(jobs=JOBS, clock=clock) as node, browsing(dashboard(node, authorize=allow)) as client:
        ids = {kind: (await node.schedule(kind, f"secret of {kind}")).id for kind in (OWN, OTHER)}
        for kind in ids:
            await node.add_schedule(node.job(kind).with_options(name=kind, cron="0 0 * * *").call(f"secret of {kind}"))
        await clock.advance(30)
        for path, route in shown.items():
            for kind, limited in zip(ids, PAGES[path], strict=True):
                expected = limited if kinds else 404 if path == "/{path:path}" else 200
                if route.role > role:
                    expected = 403
                if path in ENDLESS or (path == "/live/instances/{id}" and expected == 200):
                    continue
                given = {"{id}": ids[kind], "{what}": "arguments", "{path:path}": "nowhere"}
                link = path.replace("{name:path}", kind).replace("{kind:path}", kind)
                for name, value in given.items():
                    link = link.replace(name, value)
                params = {"/instance/again": {"id": ids[kind]}, "/search": {"q": "k"}}.get(path, {})
                answer = await client.get(link, params=params)
                assert answer.status_code == expected, (link, role, kinds)
                if kinds:
                    assert f"secret of {OTHER}" not in answer.text, link
                    assert OTHER in link or OTHER not in answer.text, link


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize(
    ("verb", "field"),
    [("lookup_instances", "id"), ("lookup_history", "instance_id"), ("lookup_logs", "instance_id")],
)
async def test_no_cursor_is_the_id_of_another_kind(
    verb: str, field: str, limit: int, order: Literal["asc", "desc"], clock: VirtualClock
) -> None:
    async with Node(jobs=JOBS, clock=clock, workers=50) as node:
        own, foreign = list[str](), set[str]()
        for kinds in ([OTHER] * 30, [OWN, OTHER, OTHER, OWN], [OTHER] * 20, [OWN]):
            made = await node.schedule_many(node.job(kind).call("x") for kind in kinds)
            own += [instance.id for instance in made if instance.kind == OWN]
            foreign |= {instance.id for instance in made if instance.kind == OTHER}
        await clock.run(node.wait())
        look_up: Any = getattr(ScopedManager(node, RIGHTS), verb)
        seen, cursors = dict[str, None](), list[str | None]()
        while not cursors or cursors[-1]:
            page = await look_up(Query(limit=limit, order=order, cursor=cursors[-1] if cursors else None))
            seen |= dict.fromkeys(getattr(item, field) for item in page)
            cursors.append(page.cursor)
            assert len(set(cursors)) == len(cursors), "each page goes on"
        assert list(seen) == (own[::-1] if order == "desc" else own)
        assert not foreign & set(cursors)


def test_a_worker_shows_no_instance_of_another_kind() -> None:
    scope = KindScope(RIGHTS)
    own, other = (Worker(number=1, node="n", instance="id", kind=kind) for kind in (OWN, OTHER))

    assert scope.worker(own) is own
    assert scope.worker(other) == Worker(number=1, node="n")
    assert scope.worker(Worker(number=1, node="n", stuck=True)).stuck


@pytest.mark.parametrize(
    ("role", "kinds", "allowed"),
    [
        (Role.OPERATOR, (), [OWN, OTHER]),
        (Role.ADMIN, (), [OWN, OTHER, "system.clear"]),
        (Role.ADMIN, ("mail.*",), [OWN]),
        (Role.OPERATOR, ("system.*",), []),
        (Role.ADMIN, ("system.*",), ["system.clear"]),
    ],
)
def test_the_kinds_that_a_caller_may_schedule(role: Role, kinds: tuple[str, ...], allowed: list[str]) -> None:
    scope = KindScope(Rights(role=role, kinds=kinds))
    for kind in (OWN, OTHER, "system.clear"):
        assert scope.may_use(kind) is (kind in allowed)
        if kind not in allowed:
            with pytest.raises(AuthError):
                scope.check_use(kind)
    assert scope.is_limited is (len(allowed) < 3)


async def test_an_error_names_no_other_kind(clock: VirtualClock) -> None:
    pay = Job("bank.pay", log, aliases=("mail.pay",))
    async with Node(jobs=[*JOBS, pay], clock=clock) as node:
        scope = KindScope(RIGHTS)
        with pytest.raises(AuthError, match=r"^kind 'mail.pay' is an alias of a kind that your rights do not include$"):
            await scope.check_runs(node, ["mail.pay"])
        with pytest.raises(AuthError, match=r"^kind 'x' is not one of mail.\*, to which your rights are limited$"):
            await scope.check_runs(node, ["x"])
        with pytest.raises(UnknownKindError) as unknown:
            await ScopedManager(node, RIGHTS).schedule("mail.nothing")
        assert unknown.value.known == ("mail.pay", OWN)


async def test_a_verb_about_all_kinds_is_refused(clock: VirtualClock) -> None:
    async with Node(jobs=JOBS, clock=clock) as node:
        scoped = ScopedManager(node, Rights(role=Role.ADMIN, kinds=("mail.*",)))
        for verb in (scoped.clear, scoped.clear_instances, scoped.clear_history, scoped.clear_logs, scoped.drain):
            with pytest.raises(AuthError, match="concerns all kinds"):
                await verb()
        for acting in (scoped.cancel_instances, scoped.retry_instances):
            with pytest.raises(AuthError, match="needs a kind in its query"):
                await acting(Query(before=datetime.now(UTC)))
