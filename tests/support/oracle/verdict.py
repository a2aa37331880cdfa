"""What a run finds, and how it ends early."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .program import Program


@dataclass
class Verdict:
    """What a run found."""

    program: Program
    engine: str
    differences: list[str] = field(default_factory=list[str])
    at: int = -1
    """The operation after which the first difference was found."""
    blurred: bool = False
    """Whether a time fell into a call, so that the run ended without a judgement of the rest."""
    calls: Counter[str] = field(default_factory=Counter[str])
    longest_us: int = 0


class Found(Exception):
    """A difference between the two stores."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__("; ".join(texts))
        self.texts = texts


class Blurred(Exception):
    """A time fell into a call of the engine: neither answer is wrong."""
