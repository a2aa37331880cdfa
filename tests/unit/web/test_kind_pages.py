"""The pages of kinds, and the form that schedules one."""

import re
from typing import Annotated

import pytest

from peerjob import Job, Node, Role, Secret
from peerjob.web.fields import fields_of
from peerjob.web.given import form_of
from support.dashboards import pages_of, submit


def bill(order: int, password: Annotated[str, Secret], note: str = "", urgent: bool = False) -> str:
    """Write a bill."""
    return f"{order} {note} {urgent}"


BILL = Job("bill", bill, description="Write a bill.", priority=3)


async def test_a_kind_shows_its_description_and_signature() -> None:
    async with Node("memory://", jobs=BILL, name="n1") as node, pages_of(node) as client:
        await (await node.schedule(BILL, 1, "hunter2")).wait(10)
        listed = (await client.get("/kinds")).text
        assert 'href="/kinds/bill"' in listed
        page = (await client.get("/kinds/bill")).text
        assert "Write a bill." in page
        assert "bill(order: int, password: Annotated[str, peerjob.model.secret.Secret], note: str = …" in page
        assert "Of the latest 1 instance that ended: 1 Completed" in page
        assert 'name="arg.order"' in page
        assert 'type="password"' in page
        unknown = (await client.get("/kinds/other")).text
        assert "No live node runs this kind" in unknown
        assert "/kinds/schedule" not in unknown


async def test_a_form_schedules_one() -> None:
    async with Node("memory://", jobs=BILL) as node, pages_of(node) as client:
        given = {"arg.order": "7", "arg.password": "hunter2", "arg.urgent": "true", "tags": "a, b", "priority": "1"}
        answer = await submit(client, "/kinds/schedule", kind="bill", **given)
        assert answer.status_code == 303
        made = await node.lookup_instance(answer.headers["location"].rsplit("/", 1)[1])
        await made.wait(10)
        assert (made.outcome(), made.tags, made.priority) == ("7  True", ("a", "b"), 1)
        assert made.kwargs["password"] == "***"

        whole = await submit(client, "/kinds/schedule", kind="bill", json='[8, "hunter2"]', after="1h")
        assert whole.status_code == 303
        again = (await client.get("/kinds/bill", params={"again": made.id})).text
        assert re.search('name="arg.order"[^>]*value="7"', again)
        assert "hunter2" not in again


@pytest.mark.parametrize(
    ("form", "name", "problem"),
    [
        ({"arg.order": "x", "arg.password": "hunter2"}, "arg.order", "expected a whole number"),
        ({"arg.password": "hunter2"}, "arg.order", "missing"),
        ({"arg.order": "1", "arg.password": "hunter2", "priority": "high"}, "priority", "expected a whole number"),
        ({"arg.order": "1", "arg.password": "hunter2", "after": "soon"}, "Schedule one", "soon"),
        ({"json": '{"order": 1, "password": "hunter2", "other": 2}'}, "Schedule one", "has no parameter"),
        ({"json": '{"order": [], "password": "hunter2"}'}, "arg.order", "Input should be a valid integer"),
        ({"json": "{"}, "All arguments", "expected JSON"),
    ],
)
async def test_a_problem_stands_beside_its_field(form: dict[str, str], name: str, problem: str) -> None:
    async with Node("memory://", jobs=BILL) as node, pages_of(node) as client:
        answer = await submit(client, "/kinds/schedule", kind="bill", **form)
        assert answer.status_code == 422
        after = answer.text[answer.text.index(name) :]
        assert problem in after
        shown = answer.text.replace("{&#34;order&#34;: 1, &#34;password&#34;: &#34;hunter2&#34;", "")
        assert 'value="hunter2"' not in shown
        assert await node.count() == 0


async def test_a_kind_of_no_node_is_refused() -> None:
    async with Node("memory://", jobs=BILL) as node, pages_of(node) as client:
        assert (await submit(client, "/kinds/schedule", kind="other")).status_code == 400
        assert await node.count() == 0


async def test_roles_are_checked_by_the_server() -> None:
    cleaner = Job("system.clean", lambda: None)
    async with Node("memory://", jobs=[BILL, cleaner]) as node:
        for role, kind, status in (
            (Role.READER, "bill", 403),
            (Role.OPERATOR, "system.clean", 403),
            (Role.ADMIN, "system.clean", 303),
        ):
            async with pages_of(node, role) as client:
                assert ("/kinds/schedule" in (await client.get(f"/kinds/{kind}")).text) is (status == 303)
                assert (await submit(client, "/kinds/schedule", kind=kind)).status_code == status
        assert await node.count() == 1


def connect(host: str, options: Annotated[dict[str, str], Secret], pin: Annotated[int, Secret] = 0) -> None:
    """Takes secrets that are no texts."""


async def test_no_secret_is_shown_again_whatever_its_type() -> None:
    async with Node("memory://", jobs=Job("connect", connect)) as node, pages_of(node) as client:
        made = await node.schedule("connect", "db", {"password": "hunter2"}, pin=4711)
        form = (await client.get("/kinds/connect", params={"again": made.id})).text
        assert re.search('name="arg.host"[^>]*value="db"', form)
        assert "***" not in form
        secret = '{"password": "hunter2"}'
        for given in (
            {"arg.host": "db", "arg.options": secret, "arg.pin": "hunter2"},
            {"arg.options": secret, "arg.host": ""},
            {"json": f'{{"host": 1, "options": {secret}, "other": 2}}'},
            {"json": f"{secret[:-1]}"},
            {"arg.options": "hunter2", "arg.host": "db"},
        ):
            answer = await submit(client, "/kinds/schedule", kind="connect", **given, priority="x")
            assert answer.status_code == 422
            assert "hunter2" not in answer.text


async def test_arguments_that_are_not_declared_are_given_again_without_secrets() -> None:
    async with Node("memory://", allow_unknown=True) as node, pages_of(node) as client:
        made = await node.schedule("other", a=1, password=Secret("hunter2"))
        positional = await node.schedule("other", *[Secret("hunter2")] * 3)
        for one in (made, positional):
            assert "***" not in (await client.get("/kinds/other", params={"again": one.id})).text
    form = form_of(fields_of(None), (), {"a": 1, "password": "***", "deep": [{"x": "***"}]})
    assert form == {"arg.*": '{"a":1}'}
    assert form_of(fields_of(None), ("***",), {}) == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"args": ["db2", {"password": "hunter2"}], "kwargs": {"pin": "hunter2"}}', "db2"),
        ('{"kwargs": {"host": "db2", "options": "hunter2", "other": 1}}', "db2"),
        ('{"args": ["db2", {"password": "hunter2"}', "db"),
        ("hunter2", "db"),
    ],
)
async def test_scheduling_again_shows_no_secret_again(text: str, shown: str) -> None:
    async with Node("memory://", jobs=Job("connect", connect)) as node, pages_of(node) as client:
        made = await node.schedule("connect", "db", {"password": "first"})
        answer = await submit(client, "/instance/again", id=made.id, arguments=text)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert f"&#34;{shown}&#34;" in answer.text
    assert "***" in answer.text
