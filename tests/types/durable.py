"""Steps, waits and signals have the types of their functions and signals, and refuse every other one."""

from typing import assert_type

from peerjob import INJECTED, BlockingChild, BlockingContext, Child, Context, Ended, Node, Signal, job

APPROVAL = Signal("approval", bool)
NOTES = Signal("notes", list[str])
node = Node("redis://localhost", workers=0)


class Payment:
    items: list[int]


async def charge(number: int, *, currency: str = "EUR") -> Payment: ...  # type: ignore[empty-body]


def refund(payment: Payment) -> float:
    return len(payment.items)


@job(kind="label")
async def label(item: int) -> str:
    return str(item)


@job(kind="total")
def total(items: list[int]) -> int:
    return sum(items)


@job(kind="order", max_retries=5)
async def order(number: int, context: Context = INJECTED) -> str:
    payment = await context.step("charge", charge, number, currency="USD")
    assert_type(payment, Payment)
    assert_type(await context.step("refund", refund, payment), float)
    assert_type(await context.step("label", label, 3), str)
    labels = await context.map("labels", (label.call(item) for item in payment.items))
    assert_type(labels, list[str])
    page = await context.start("page", label.call(7))
    bill = await context.start("bill", total.call([7]))
    assert_type(page, Child[str])
    assert_type(await page, str)
    assert_type((await bill.ended()), Ended[int])
    assert_type(await context.gather(page, bill), tuple[str, int])
    assert_type(await context.gather(*[page, page]), tuple[str, ...])
    assert_type(await context.call("total", total.call([1])), int)
    assert_type(await context.wait_for(APPROVAL, timeout="3d"), bool)
    assert_type(await context.wait_for(NOTES), list[str])
    await context.suspend("cool-down", "1d")
    return f"{await context.wait_for(Signal('more', int))}"


@job(kind="blocking")
def blocking(number: int, context: BlockingContext = INJECTED) -> str:
    payment = context.step("charge", charge, number, currency="USD")
    assert_type(payment, Payment)
    assert_type(context.step("refund", refund, payment), float)
    page = context.start("page", label.call(7))
    bill = context.start("bill", total.call([7]))
    assert_type(page, BlockingChild[str])
    assert_type(page.result(), str)
    assert_type(context.gather(page, bill), tuple[str, int])
    assert_type(context.map("all", [label.call(1)]), list[str])
    assert_type(context.wait_for(APPROVAL, timeout="3d"), bool)
    context.suspend("cool-down", "1d")
    return "done"


async def outside() -> None:
    instance = await node.schedule(order, 7)
    assert_type(await node.signal(instance, APPROVAL, True), bool)
    assert_type(await node.signal(instance.id, "approval", {"any": "value"}), bool)
    assert_type(node.blocking().signal(instance.uuid, NOTES, ["a"]), bool)


async def mistakes(context: Context, sync: BlockingContext, payment: Payment) -> None:
    await context.step("charge", charge, "7")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await context.step("charge", charge)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await context.step("charge", charge, 7, curency="USD")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await context.step(charge, 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await context.step("charge", charge(7))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    number: int = await context.step("refund", refund, payment)  # type: ignore[call-overload]  # pyright: ignore[reportAssignmentType]
    await context.step("refund", refund, number)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    text: str = await context.wait_for(APPROVAL)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await context.wait_for("approval")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await context.wait_for(APPROVAL, "3d")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await context.suspend("1d")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await node.signal(text, APPROVAL, "yes")  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await node.signal(text, APPROVAL)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await node.signal(7, NOTES, ["a"])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await sync.step("charge", charge, 7)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    await context.start("page", label)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await context.start("page", label.call("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await context.start(label.call(7))  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await context.map("labels", label.call(7))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    child = await context.start("page", label.call(7))
    other: int = await child  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await context.gather(label.call(7))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await context.step("child", child)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    print(other)
