"""Text for a terminal or a page. Control characters are escaped: they could change what the reader sees."""

from __future__ import annotations

MAX_SHOWN = 500
"""Most characters of an invalid value that the text of an error has."""


def printable(text: str, *, lines: bool = False) -> str:
    """Escape the characters that cannot be printed; with `lines`, line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or (lines and character in "\n\t") else ascii(character)[1:-1]
        for character in text
    )


def printable_json(text: str) -> str:
    """Escape the characters of a JSON text that cannot be printed; its value stays the same."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else json_escapes(character) for character in text
    )


def json_escapes(text: str) -> str:
    """The characters of a text as the escapes of JSON."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def counted(count: int, noun: str) -> str:
    """A number of things: "1 node", "3 nodes", "2 crashes"."""
    ending = "es" if noun.endswith(("s", "sh", "ch", "x")) else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def hidden(text: str) -> str:
    """What an error says in place of a text that can contain secrets."""
    return f"a text of {counted(len(text), 'character')}"


def with_article(noun: str) -> str:
    """A noun behind its article: "a list", "an int"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def shown(given: object) -> str:
    """The beginning of a value, also of one whose `repr` fails, such as an integer of 5,000 digits."""
    try:
        text = repr(given)
    except Exception:  # noqa: BLE001  # the error of `repr` would replace the one that says what is wrong
        return f"<{type(given).__name__} that cannot be shown>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"
