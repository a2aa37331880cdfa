"""The lint of words: of names with a second meaning, and of names that do not say what they hold."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "scripts" / "check_words.py"


def check(home: Path, code: str, name: str = "cluster/a.py") -> list[str]:
    """The findings of the lint in a checkout that has one file."""
    (home / "scripts").mkdir()
    shutil.copy(CHECK, home / "scripts")
    path = home / name
    path.parent.mkdir(parents=True)
    path.write_text(code)
    for command in (["init", "-q"], ["add", name]):
        subprocess.run(["git", *command], cwd=home, check=True)
    command = [sys.executable, str(home / "scripts" / CHECK.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == bool(done.stdout), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("def _settle_all(): ...", "'settle'"),
        ("class LostError: ...", "'lost'"),
        ("READ_AT_ONCE = 1", "'once'"),
        ("def f(has_room): ...", "'room'"),
        ("class A:\n    def g(self):\n        self._turn = 1", "'turn'"),
        ("for place in (): ...", "'place'"),
        ("kinds = [one for one in ()]", "'one'"),
        ("found = None", "'found'"),
        ("# nobody reads it", "'nobody'"),
    ],
)
def test_a_word_with_another_meaning_is_refused(tmp_path: Path, code: str, word: str) -> None:
    (finding,) = check(tmp_path, code)

    assert finding.startswith("cluster/a.py")
    assert word in finding


def test_a_file_of_such_a_word_is_refused(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, "", "src/peerjob/in_place.py")

    assert finding.startswith("src/peerjob/in_place.py: 'place'")


def test_words_with_their_meaning_stay(tmp_path: Path) -> None:
    code = (
        "class OwnershipLost: ...\nnote = ''\n\ndef turn(placed, roomy): ...\n\ndef test_of_one_place_at_once(): ...\n"
    )

    assert check(tmp_path, code) == []
