"""Write what the pages of docs/reference show of the code: docstrings, signatures, commands, settings and errors.

GitHub shows a page as it is stored, so the content is in the pages, each piece between two comments. The first one
names its source: `<!-- reference: peerjob.Node -->` a public name, `<!-- reference: peerjob.Node own -->` the same
without what it inherits, and `<!-- part: errors -->` a part of docs_parts.py. A new name comes as `::: peerjob.Name`.
griffe reads the code without import.

The hooks of MkDocs leave the pieces out: mkdocstrings and docs_parts.py make them anew, with links between names.
With --check, the script writes nothing, and exits with 1 if a page is stale.
"""

import functools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
PIECE = re.compile(
    r"^<!-- (reference|part): ([^\n]+?) -->$(?:(?:(?!^<!-- (?:reference|part): ).)*?^<!-- end -->$)?",
    re.DOTALL | re.MULTILINE,
)
"""A piece with its content; one that was never written has its first comment only."""
NEW = re.compile(r"^::: (\S+)$(\n +options: \{inherited_members: false\}$)?", re.MULTILINE)
"""A name in the form of mkdocstrings, which becomes a piece."""
MAX_LINE = 100
PACKAGES = ("peerjob", "peerjob_pytest")


def main() -> int:
    stale: list[Path] = []
    for path in sorted(PAGES.glob("*.md")):
        old = path.read_text()
        new = PIECE.sub(_piece, NEW.sub(_begun, old))
        if new != old:
            stale.append(path)
            if "--check" not in sys.argv[1:]:
                path.write_text(new)
    if "--check" not in sys.argv[1:]:
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the code says: make reference")
    return 1 if stale else 0


def _begun(match: re.Match[str]) -> str:
    return f"<!-- reference: {match[1]}{' own' if match[2] else ''} -->"


def _piece(match: re.Match[str]) -> str:
    what, name = match.groups()
    text = reference(*name.split()) if what == "reference" else part(name)
    return f"<!-- {what}: {name} -->\n\n{text.strip()}\n\n<!-- end -->"


# -- parts that docs_parts.py makes ----------------------------------------------------------------------------------


def part(name: str) -> str:
    """A part of the documentation, as GitHub shows it."""
    import docs_parts

    text = docs_parts.part(name)
    text = re.sub(r"\[`(\w+)`\]\[peerjob\.\w+\]", lambda link: f"[`{link[1]}`](#{link[1].lower()})", text)
    # the tests of pages type what a console shows, and these commands are forms
    return re.sub(r"^```console$", "```console notest", text, flags=re.MULTILINE)


# -- public names ----------------------------------------------------------------------------------------------------


@functools.cache
def _code() -> griffe.ModulesCollection:
    extensions = griffe.load_extensions("griffe_inherited_docstrings")
    loader = griffe.GriffeLoader(search_paths=[ROOT / "src"], extensions=extensions, allow_inspection=False)
    for package in PACKAGES:
        loader.load(package)
    loader.resolve_aliases(implicit=False, external=False)
    return loader.modules_collection


def reference(path: str, own: str = "") -> str:
    """A public name: its heading, its signature, its docstring, and its public members that have a docstring."""
    found = _code()[path]
    subject = found.final_target if isinstance(found, griffe.Alias) else found
    blocks = [f"### {subject.name}"]
    if isinstance(subject, griffe.Class):
        blocks += [*_class(subject, own=bool(own))]
    elif isinstance(subject, griffe.Function):
        blocks += [_python(_signatures(subject)), _text(subject)]
    elif isinstance(subject, griffe.Attribute):
        annotation = f": {subject.annotation}" if subject.annotation is not None else ""
        value = f" = {subject.value}" if subject.value is not None else ""
        blocks += [_python([f"{subject.name}{annotation}{value}"]), _text(subject)]
    return "\n\n".join(block for block in blocks if block)


def _class(subject: griffe.Class, *, own: bool) -> Iterator[str]:
    yield _text(subject)
    parameters = list(subject.parameters)[1:]
    if parameters:
        yield _python([_signature("", subject.name, parameters, "")])
    rows, methods = list[str](), list[str]()
    for member in _members(subject, own=own):
        if isinstance(member, griffe.Function):
            methods += [f"#### {subject.name}.{member.name}", _python(_signatures(member, bound=True)), _text(member)]
        else:
            rows.append(f"| `{member.name}` | {_cell(_kind(member))} | {_cell(_text(member))} |")
    if rows:
        yield "\n".join(["| attribute | type | meaning |", "|---|---|---|", *rows])
    yield from methods


def _kind(member: griffe.Attribute) -> str:
    """The annotation of an attribute, or the value of a member of an enumeration."""
    shown = member.value if member.annotation is None and "class-attribute" in member.labels else member.annotation
    return "" if shown is None else f"`{shown}`"


def _members(subject: griffe.Class, *, own: bool) -> Iterator[griffe.Function | griffe.Attribute]:
    """The public members: those of the class itself first, then those that it inherits."""
    inherited = {} if own else subject.inherited_members
    for name, found in [*subject.members.items(), *inherited.items()]:
        member = found.final_target if isinstance(found, griffe.Alias) else found
        if name.startswith("_"):
            continue
        is_detail = {"class-attribute"} == member.labels and not member.has_docstring
        if isinstance(member, griffe.Attribute):
            if not is_detail:
                yield member
        elif isinstance(member, griffe.Function) and member.has_docstring:
            yield member


def _signatures(function: griffe.Function, *, bound: bool = False) -> list[str]:
    """The signature of a function, or those of its overloads; `bound` leaves out the first parameter of a method."""
    texts: list[str] = []
    for one in function.overloads or [function]:
        is_static = "staticmethod" in function.labels
        parameters = list(one.parameters)[1 if bound and not is_static else 0 :]
        start = "async def " if "async" in function.labels else "def "
        texts.append(
            _signature(start, function.name, parameters, f" -> {one.returns}" if one.returns is not None else "")
        )
    return texts


def _signature(start: str, name: str, parameters: Sequence[griffe.Parameter], end: str) -> str:
    kinds = griffe.ParameterKind
    shown: list[str] = []
    starred = False
    for number, parameter in enumerate(parameters):
        if parameter.kind is kinds.keyword_only and not starred:
            shown.append("*")
        starred = starred or parameter.kind in (kinds.keyword_only, kinds.var_positional)
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(parameter.kind, "") if parameter.kind else ""
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        default = ""
        if parameter.default is not None and not stars:
            default = f" = {parameter.default}" if annotation else f"={parameter.default}"
        shown.append(f"{stars}{parameter.name}{annotation}{default}")
        following = parameters[number + 1].kind if number + 1 < len(parameters) else None
        if parameter.kind is kinds.positional_only and following is not kinds.positional_only:
            shown.append("/")
    line = f"{start}{name}({', '.join(shown)}){end}"
    if len(line) <= MAX_LINE or not shown:
        return line
    rows = "".join(f"    {one},\n" for one in shown)
    return f"{start}{name}(\n{rows}){end}"


def _python(texts: Sequence[str]) -> str:
    # the tests of pages run no block with this mark, and GitHub ignores it
    return "```python notest\n" + "\n".join(texts) + "\n```"


def _text(subject: griffe.Object) -> str:
    return subject.docstring.value.strip() if subject.docstring else ""


def _cell(text: str) -> str:
    """The first paragraph of a text, as a cell of a table."""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main())
