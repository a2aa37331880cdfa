"""How many instances of each kind a claim may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

_NONE: Set[str] = frozenset()


class Caps(Mapping[str, int]):
    """Most instances to claim, by kind: `default`, unless `others` has the kind.

    With the same `kinds` and `known` (their set) each time, a claim for thousands of kinds costs as much as for few.
    """

    __slots__ = ("_known", "default", "kinds", "others")

    def __init__(
        self, kinds: tuple[str, ...], default: int, others: Mapping[str, int] | None = None, known: Set[str] = _NONE
    ) -> None:
        self.kinds = kinds
        self.default = default
        self.others = others or {}
        self._known = known

    def __getitem__(self, kind: str) -> int:
        self._known = self._known or frozenset(self.kinds)
        if kind not in self._known:
            raise KeyError(kind)
        return self.others.get(kind, self.default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)
