"""The layout of a namespace rises at the first use of what needs a higher one."""

from __future__ import annotations

from peerjob.store.rules import check_readers

from .transaction import ReferenceTransaction


def raise_layout(transaction: ReferenceTransaction, layout: int, what: str) -> None:
    """Raise the layout of the namespace, unless a live node does not read it."""
    state = transaction.state
    if state.layout < layout:
        live = (node.info for node in state.nodes.values() if node.alive(transaction.now_us))
        check_readers(live, layout, what, namespace=transaction.namespace, url="memory://")
        state.layout = layout
