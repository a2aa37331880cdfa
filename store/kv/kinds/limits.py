"""The verbs about limits."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.stored_limit import KeyLimitPage, KindLimits, LimitKey, LimitPage, LimitSetting
from peerjob.store.kv.write.context import KVCommands


class LimitCommands(KVCommands):
    """The verbs about limits."""

    async def publish_limits(self, limits: Sequence[KindLimits]) -> None:
        raise NotImplementedError

    async def set_limit(self, setting: LimitSetting) -> bool:
        raise NotImplementedError

    async def pause_kind(self, kind: str, paused: bool, note: str = "") -> None:
        raise NotImplementedError

    async def throttle(self, name: str, delay_us: int, *, shorten: bool = False) -> bool:
        raise NotImplementedError

    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = 100) -> LimitPage:
        raise NotImplementedError

    async def key_limits(
        self,
        kind: str,
        *,
        prefix: str = "",
        waiting_only: bool = False,
        cursor: str | None = None,
        limit: int = 500,
    ) -> KeyLimitPage:
        raise NotImplementedError

    async def limit_keys(self, ids: Sequence[str]) -> list[LimitKey | None]:
        raise NotImplementedError

    async def key_holders(self, kind: str, key: str) -> list[str]:
        raise NotImplementedError

    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        raise NotImplementedError
