"""The pages of kinds, and the form that schedules one."""

import re
from typing import Annotated

import pytest

from peerjob import Job, Node, Role, Secret
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
