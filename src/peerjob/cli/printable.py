"""Text without what could command a terminal, or make it show another text than the one that is there."""

from __future__ import annotations


def printable(text: str, *, lines: bool = False) -> str:
    """Characters that cannot be printed as escapes; with `lines`, line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or (lines and one in "\n\t") else ascii(one)[1:-1] for one in text)


def printable_json(text: str) -> str:
    """JSON that means the same; what cannot be printed is in its texts, so it gets JSON's own escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
