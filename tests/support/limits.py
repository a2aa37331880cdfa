"""The rows of docs/limits.md."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"


def rows() -> dict[str, list[str]]:
    """Limit → its default, setting and consequence, as documented."""
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells if name != "limit"}


def number(text: str) -> int:
    """The number in a default: "1,000 characters", "1 MiB"."""
    first, _, unit = text.partition(" ")
    return int(first.replace(",", "")) * (1 << 20 if unit.startswith("MiB") else 1)
