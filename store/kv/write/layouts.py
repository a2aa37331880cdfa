"""Whether the layout of the namespace may rise."""

from __future__ import annotations

from peerjob.store.kv.format.base import KeyValue
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.format.rows import node_of
from peerjob.store.rules import check_readers


async def check_live_readers(kv: KeyValue, keys: Keys, layout: int, what: str, *, url: str) -> None:
    """Raise LayoutError if a live node does not read the layout that `what` needs."""
    nodes, lives = await kv.read([below(keys.node), below(keys.live, keys_only=True)])
    alive = {key[len(keys.live) :] for key, _ in lives.items}
    infos = [node_of(entry.value).info for key, entry in nodes.items if key[len(keys.node) :] in alive]
    check_readers(infos, layout, what, namespace=keys.root[:-1], url=url)
