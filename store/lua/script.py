"""The Lua scripts: read from their files, joined with the definitions that they use, and known by their digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

from peerjob.model.record import MAX_HISTORY, REPEAT_US, SUSPECT_AFTER
from peerjob.store.rules import KEY_TAKEN, LAYOUT, QUEUE_FULL, REPLACED, STILL_RUNS

from .rights import WRITES, lua_check

_PARTS = (
    *("base", "keys", "kinds", "heap", "record", "claims", "lease", "queue", "hints", "slot", "aside", "outcome"),
    *("takeback", "payloads", "pages", "arrival", "schedule", "ledger", "firing"),
)
"""The files of `lib`, in an order in which each definition uses only earlier definitions."""
_CONSTANTS = {
    "LAYOUT": str(LAYOUT),
    "MAX_HISTORY": MAX_HISTORY,
    "SUSPECT_AFTER": SUSPECT_AFTER,
    "REPEAT_MS": REPEAT_US // 1000,
    "STILL_RUNS": STILL_RUNS,
    "QUEUE_FULL": QUEUE_FULL,
    "KEY_TAKEN": KEY_TAKEN,
    "REPLACED": REPLACED,
}
_ANY_LAYOUT = ("open", "wipe")
"""Scripts that can write to a namespace of any layout. All other writing scripts stop at the check of `layout` in
base.lua."""
_MAX_OUTER = 60
"""Lua's limit of names of outer levels that a function uses."""
_LEVEL = 30
"""Definitions of a level."""
_DEFINITION = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
_TOKEN = re.compile(r"'[^'\n]*'|(?<![.\w])[A-Za-z_]\w*")
"""A pattern for a string, or for a word that is not the name of a field."""
_COMMAND = re.compile(r"'([A-Z]+)'")
_LITERAL = re.compile(r"-?\d+|'[^']*'")
_CONSTANT = re.compile(r"local [A-Z_]+(?:, [A-Z_]+)* = ((?:-?\d+|'[^']*')(?:, (?:-?\d+|'[^']*'))*)")
"""A pattern for a definition of literals. The literals replace their names in each script, because Lua allows only 200
local names."""


@dataclass(frozen=True, slots=True)
class Script:
    """One command; the header of its file lists arguments and reply."""

    name: str
    source: str
    sha: str


Argument = str | bytes | int
Call = tuple[str, Sequence[Argument]]
"""The name of a script, and the arguments for the script."""
_Definition = tuple[list[str], str, frozenset[str]]
"""The names that a definition defines, its code, and the words of its code."""
Reply = Any
"""The reply of a script: bytes, integers, None, or lists of them. The header of each script describes its reply."""


@cache
def load_scripts() -> Mapping[str, Script]:
    """Every script of the package by its name; the files never change while a process runs."""
    folder = files("peerjob.store.lua") / "scripts"
    constants = "".join(f"local {name} = {value!r}\n" for name, value in _CONSTANTS.items())
    parts = [(folder / "lib" / f"{part}.lua").read_text() for part in _PARTS]
    definitions = [definition for part in (constants, *parts) for definition in _definitions(part)]
    texts = {path.name[:-4]: path.read_text() for path in folder.iterdir() if path.name.endswith(".lua")}
    return {name: _script(name, text, definitions) for name, text in texts.items()}


def _definitions(part: str) -> Iterable[_Definition]:
    """Yield each top-level definition of a part."""
    code = _without_comments(part)
    starts = [match.start() for match in _DEFINITION.finditer(code)]
    for start, end in zip(starts, [*starts[1:], len(code)], strict=True):
        match = _DEFINITION.match(code, start)
        assert match is not None
        definition = code[start:end].rstrip()
        yield match[1].split(", "), definition, frozenset(_TOKEN.findall(definition))


def _without_comments(code: str) -> str:
    return "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("--"))


def _nested(definitions: Sequence[_Definition], body: str) -> str:
    """Join definitions and a command, so that later ones are in a function within the function of earlier ones.

    To make a function, Lua searches each local name of the same level that the function uses, and the search takes
    longer the more such names there are. A name of an outer level needs no search. A function can use `_MAX_OUTER`
    names of outer levels.
    """
    words = [*(words for *_, words in definitions), _TOKEN.findall(body)]
    levels, begin = [""], 0
    for at, (_, code, _) in enumerate(definitions):
        if at - begin >= _LEVEL:
            outer = {name for names, *_ in definitions[:at] for name in names}
            if len(outer.intersection(chain.from_iterable(words[at:]))) <= _MAX_OUTER:
                levels.append("")
                begin = at
        levels[-1] += f"{code}\n"
    return "return (function()\n".join(levels) + body + "\nend)()" * (len(levels) - 1)


def _script(name: str, text: str, definitions: Sequence[_Definition]) -> Script:
    """Join a command with only the definitions that it needs: each definition costs the server time at every call."""
    shebang, _, body = text.partition("\n")
    body = _without_comments(body)
    wanted = set(_TOKEN.findall(body))
    if "no-writes" not in shebang and name not in _ANY_LAYOUT:
        wanted.add("layout")
    chosen: list[_Definition] = []
    literals: dict[str, str] = {}
    for definition in reversed(definitions):
        names, code, words = definition
        if not wanted.intersection(names):
            continue
        constants = _CONSTANT.fullmatch(code)
        if constants is not None:
            literals.update(zip(names, _LITERAL.findall(constants[1]), strict=True))
        else:
            wanted.update(words)
            chosen.append(definition)
    code = _nested([*reversed(chosen)], body)
    code = _TOKEN.sub(lambda token: literals.get(token[0], token[0]), code)
    check = "" if name == "open" else lua_check(WRITES & {found.lower() for found in _COMMAND.findall(code)})
    source = "\n".join(filter(None, [shebang, check, code]))
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
