"""The Lua scripts: read from their files, joined with the definitions that they use, and known by their digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peerjob.model.durable import FLOW_KIND, MAX_ALL_STEP_BYTES, MAX_SETTLED, MAX_SIGNALS, SIGNAL_MARK
from peerjob.model.ids import OUTBOX_MARK, OUTBOX_MARK_AT
from peerjob.model.record import MAX_HISTORY, SUSPECT_AFTER
from peerjob.model.repeats import OUTBOX_REPEAT_US, REPEAT_US
from peerjob.model.state import State
from peerjob.model.stored_limit import MAX_LIMIT_KINDS
from peerjob.store.rules import (
    FLOWS_LAYOUT,
    KEY_TAKEN,
    LAYOUT,
    LIMITS_LAYOUT,
    PARENT_ENDED,
    QUEUE_FULL,
    REPLACED,
    STILL_RUNS,
    SUSPENDED,
    need_failed,
)

from .rights import WRITES, lua_check

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_PARTS = (
    *("base", "values", "keys", "kinds", "limits", "limit_wakes", "layouts"),
    *("heap", "record", "usual", "claims", "lease"),
    *("gates", "gate_counts", "queue", "thread", "hints"),
    *("gate_usual", "gate_new", "gate_moves", "gate_pass", "slot", "aside"),
    *("claim_repeat", "claim_select", "claim_due", "claim_take", "claim_end"),
    *("outcome", "logs", "read_outcome", "takeback", "payloads", "pages"),
    *("arrival", "schedule", "ledger", "firing", "limit_rows"),
    *("lost_edges", "settle", "attach", "joins", "thread_outcome"),
)
"""The files of `lib`, in an order in which each definition uses only earlier definitions."""
_VERBS = ("queue", "run", "cron", "nodes", "kinds", "limits", "flows", "admin")
"""The folders of the scripts, by the verbs that they serve."""
_CONSTANTS = {
    "LAYOUT": str(LAYOUT),
    "LIMITS_LAYOUT": str(LIMITS_LAYOUT),
    "FLOWS_LAYOUT": str(FLOWS_LAYOUT),
    "MAX_LIMIT_KINDS": MAX_LIMIT_KINDS,
    "MAX_HISTORY": MAX_HISTORY,
    "SUSPECT_AFTER": SUSPECT_AFTER,
    "REPEAT_MS": REPEAT_US // 1000,
    "OUTBOX_REPEAT_MS": OUTBOX_REPEAT_US // 1000,
    "OUTBOX_MARK": OUTBOX_MARK,
    "OUTBOX_MARK_FIRST": OUTBOX_MARK_AT + 1,
    "OUTBOX_MARK_LAST": OUTBOX_MARK_AT + len(OUTBOX_MARK),
    "STILL_RUNS": STILL_RUNS,
    "QUEUE_FULL": QUEUE_FULL,
    "KEY_TAKEN": KEY_TAKEN,
    "REPLACED": REPLACED,
    "SUSPENDED": SUSPENDED,
    "FLOW_KIND": FLOW_KIND,
    "PARENT_ENDED": PARENT_ENDED,
    "NEED_GONE": need_failed("%s", None),
    "NEED_CANCELLED": need_failed("%s", State.CANCELLED),
    "NEED_TIMED_OUT": need_failed("%s", State.TIMED_OUT),
    "NEED_TERMINATED": need_failed("%s", State.TERMINATED),
    "MAX_SETTLED": MAX_SETTLED,
    "SIGNAL_MARK": SIGNAL_MARK,
    "MAX_SIGNALS": MAX_SIGNALS,
    "MAX_ALL_STEP_BYTES": MAX_ALL_STEP_BYTES,
}
_WITH_MORE = {"commit_linked": ("commit", "thread_outcome")}
"""Scripts with the code of another one and a further definition, which the code uses if it is there."""
_LATE = frozenset(
    (
        *("pass_kind", "pass_new", "pass_ended", "pass_slots", "wake", "wake_in_limits", "next_moment"),
        *("take_unusual", "repeat_claims", "set_aside", "write_planned_aside", "remove_damaged_limits"),
        *("move_delayed", "pass_gates", "enter_queue", "limits_after_claim", "offer_ended"),
    )
)
"""Functions that few calls of a script run. Each contains the functions that only such functions use: a call that does
not run it makes none of them."""
_FUNCTION = re.compile(r"(local (?:function \w+|\w+ = (?:\w+ and )?function))\(")
_REST = "-- The rest needs further definitions.\n"
"""A line in a script. A call that ends before it makes only the definitions that the part above needs."""
_OWN_LAYOUT_CHECK = ("open", "wipe", "enqueue_one", "enqueue_alike")
"""Scripts that can write to a namespace of any layout, and two that compare the layout themselves. All other writing
scripts stop at the check of `layout` in base.lua."""
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
    """One command; the header of its file lists arguments and reply. Scripts share the code of their definitions."""

    name: str
    pieces: Sequence[str]
    sha: str

    @property
    def source(self) -> str:
        return "".join(self.pieces)


Argument = str | bytes | int
Call = tuple[str, Sequence[Argument]]
"""The name of a script, and the arguments for the script."""
_Definition = tuple[list[str], tuple[str, ...], frozenset[str]]
"""The names that a definition defines, its code in pieces, and the names of earlier definitions in its code."""
Reply = Any
"""The reply of a script: bytes, integers, None, or lists of them. The header of each script describes its reply."""


@cache
def load_scripts() -> Mapping[str, Script]:
    """Every script of the package by its name; the files never change while a process runs."""
    folder = _folder()
    constants = "".join(f"local {name} = {value!r}\n" for name, value in _CONSTANTS.items())
    parts = [(folder / "lib" / f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS]
    definitions, literals = _definitions([constants, *parts])
    files = chain.from_iterable((folder / verbs).iterdir() for verbs in _VERBS)
    texts = {path.name[:-4]: path.read_text(encoding="utf-8") for path in files if path.name.endswith(".lua")}
    scripts = {name: _script(name, text, definitions, literals) for name, text in texts.items()}
    for name, (base, also) in _WITH_MORE.items():
        scripts[name] = _script(name, texts[base], definitions, literals, {also})
    return scripts


def _folder() -> Traversable:
    """The folder of the scripts, also in a package that is imported from a zip file."""
    folder = Path(__file__).parent
    if folder.is_dir():
        return folder
    # Not at the top: it imports tempfile, shutil and modules of compression, for a node that needs none of them.
    from importlib.resources import files

    return files("peerjob.store.lua.scripts")


def _definitions(parts: Iterable[str]) -> tuple[list[_Definition], dict[str, str]]:
    """Return the top-level definitions of all parts in order, and apart from them the literals by their names."""
    definitions: list[_Definition] = []
    literals: dict[str, str] = {}
    known = set[str]()
    for names, text in chain.from_iterable(map(_split, parts)):
        if (constant := _CONSTANT.fullmatch(text)) is not None:
            literals.update(zip(names, _LITERAL.findall(constant[1]), strict=True))
        else:
            code = _with_literals(text, literals)
            # Only these words, because all words of all definitions would take a megabyte.
            definitions.append((names, (code,), frozenset(known.intersection(_TOKEN.findall(code)))))
            known.update(names)
    return definitions, literals


def _split(part: str) -> Iterator[tuple[list[str], str]]:
    """Yield the names and the code of each top-level definition of a part."""
    code = _without_comments(part)
    definitions = list(_DEFINITION.finditer(code))
    ends = [match.start() for match in definitions[1:]] + [len(code)]
    for match, end in zip(definitions, ends, strict=True):
        yield match[1].split(", "), code[match.start() : end].rstrip()


def _with_literals(code: str, literals: Mapping[str, str]) -> str:
    return _TOKEN.sub(lambda token: literals.get(token[0], token[0]), code)


def _without_comments(code: str) -> str:
    return "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("--"))


def _nested(definitions: Sequence[_Definition], body: str, ends: Container[int]) -> list[str]:
    """Return definitions and a command in pieces; later ones are in a function within the function of earlier ones.

    To make a function, Lua searches each local name of the same level that the function uses, and the search takes
    longer the more such names there are. A name of an outer level needs no search. A function can use `_MAX_OUTER`
    names of outer levels. A level also ends at each position of `ends`; functions beyond that limit are its arguments.
    """
    words = [*(words for *_, words in definitions), _TOKEN.findall(body)]
    pieces, begin, passed = list[str](), 0, list[str]()
    for at, (_, code, _) in enumerate(definitions):
        if at in ends or at - begin >= _LEVEL:
            known = {name for names, *_ in definitions[:at] for name in names}
            outer = known.intersection(chain.from_iterable(words[at:]))
            if at in ends or len(outer) <= _MAX_OUTER:
                functions = [names[0] for names, code, _ in definitions[:at] if _FUNCTION.match(code[0])]
                arguments = [name for name in functions if name in outer][: max(0, len(outer) - _MAX_OUTER)]
                passed.append(", ".join(arguments))
                pieces.append(f"return (function({passed[-1]})\n")
                begin = at
        pieces += chain.from_iterable((piece, "\n") for piece in code)
    return [*pieces, body, *(f"\nend)({names})" for names in reversed(passed))]


def _needed(wanted: Set[str], definitions: Sequence[_Definition]) -> list[_Definition]:
    """Return the definitions of some names, and all that those need."""
    words, chosen = set(wanted), list[_Definition]()
    for definition in reversed(definitions):
        names, _, own_words = definition
        if not words.isdisjoint(names):
            words.update(own_words)
            chosen.append(definition)
    return chosen[::-1]


def _with_late(wanted: Set[str], definitions: Sequence[_Definition], known: frozenset[str]) -> list[_Definition]:
    """Return what `_needed` does without known definitions; late functions contain what only they need."""
    needed = _needed(wanted, definitions)
    # All other definitions stay outside, because they can have a state, which the functions share.
    state = {name for names, code, _ in needed if not _FUNCTION.match(code[0]) for name in names}
    early = [(names, code, frozenset[str]() if names[0] in _LATE else words) for names, code, words in needed]
    outer = known.union(*(names for names, *_ in _needed(wanted | state, early)))
    added = outer - known
    chosen = [definition for definition in needed if definition[0][0] in added]
    for at, (names, code, words) in enumerate(chosen):
        inner = _with_late(words, definitions, outer) if names[0] in _LATE else []
        begin = _FUNCTION.match(code[0])
        if inner and begin:
            inner_code = chain.from_iterable(pieces for _, pieces, _ in inner)
            own = frozenset(chain.from_iterable(own_names for own_names, *_ in inner))
            with_inner = (f"{begin[1]}(...)", *inner_code, *code, f"return {names[0]}(...)\nend")
            chosen[at] = (names, with_inner, words.union(*(needs for *_, needs in inner)) - own)
    return chosen


def _script(
    name: str,
    text: str,
    definitions: Sequence[_Definition],
    literals: Mapping[str, str],
    also: Iterable[str] = (),
) -> Script:
    """Join a command with only the definitions that it needs: each definition costs the server time at every call."""
    shebang, _, body = text.partition("\n")
    parts = [_with_literals(_without_comments(part), literals) for part in body.split(_REST)]
    wanted = set(also)
    if "no-writes" not in shebang and name not in _OWN_LAYOUT_CHECK:
        wanted.add("layout")
    chosen: list[_Definition] = []
    ends = set[int]()
    for part in parts:
        words = frozenset(_TOKEN.findall(part))
        wanted |= words
        chosen += _with_late(wanted, definitions, frozenset(name for names, *_ in chosen for name in names))
        if part is not parts[-1]:
            names = [name for group in _DEFINITION.findall(part) for name in group.split(", ")]
            chosen.append((names, (part.strip("\n"),), words))
            ends.add(len(chosen))
    pieces = _nested(chosen, parts[-1], ends)
    commands = {command.lower() for piece in pieces for command in _COMMAND.findall(piece)}
    check = "" if name == "open" else lua_check(WRITES & commands)
    pieces = [shebang, "\n", check, "\n" if check else "", *pieces]
    return Script(name, pieces, hashlib.sha1("".join(pieces).encode(), usedforsecurity=False).hexdigest())
