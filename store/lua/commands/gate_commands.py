"""What commands share that bring instances with keys to their gates."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.store.lua.client.driver import LuaCommands
from peerjob.store.lua.scripts.script import Argument, Reply
from peerjob.store.rules import LAYOUT, LIMITS_LAYOUT, layout_refused

_NO_GATES = -1
"""The reply of a script that got an instance with a key in a namespace without limits, and did nothing."""


class LuaGateCommands(LuaCommands):
    """Commands that can bring instances with keys."""

    _layout = LAYOUT
    """The layout of the namespace, as an answer told last."""

    async def _run_with_gates(self, script: str, arguments: Sequence[Argument], kinds: Sequence[str]) -> Reply:
        """Run a script durably. If the namespace has no limits yet, and an instance has a key, prepare it first."""
        while True:
            (reply,) = await self._run_durably((script, arguments))
            if reply != _NO_GATES:
                return reply
            (refusing,) = await self._run_durably(("open_gates", tuple(dict.fromkeys(kinds))))
            self._check_readers(refusing)

    def _check_readers(self, refusing: Sequence[bytes], layout: int = LIMITS_LAYOUT, what: str = "limits") -> None:
        """Raise LayoutError if nodes refuse the layout that `what` needs."""
        if refusing:
            names = sorted({name.decode() for name in refusing})
            namespace, url = self._driver.namespace, self._driver.url
            raise layout_refused(names, layout, what, namespace=namespace, url=url)
