"""Which users of the machine reach the files of a SQLite store."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerjob import Job, Node
from peerjob.model.clock import SystemClock
from peerjob.model.findings import Severity
from peerjob.store.drivers import diagnose
from peerjob.store.sqlite.backup import back_up
from support.processes import ChildProcess
from support.sqlite_process import GROUP
from support.waiting import until

SECRET = Job("secret", lambda text: text)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that all users may enter; those of pytest belong to its user."""
    with tempfile.TemporaryDirectory(prefix="peerjob-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def rights(folder: Path) -> dict[str, str]:
    return {one.name: oct(stat.S_IMODE(one.lstat().st_mode)) for one in folder.iterdir()}


def groups(folder: Path) -> set[int]:
    return {one.lstat().st_gid for one in folder.iterdir()}


def shared_file(folder: Path) -> Path:
    """A file of the user 1001 and of a group, in a folder of the group."""
    os.chown(folder, 0, GROUP)
    folder.chmod(0o770)
    path = folder / "a.db"
    path.touch()
    os.chown(path, 1001, GROUP)
    path.chmod(0o660)
    return path


def node_on(path: Path) -> Node:
    return Node(f"sqlite://{path}?sync=normal", jobs=[SECRET], workers=1)


async def exposed(path: Path) -> list[tuple[Severity, str]]:
    found = await diagnose(f"sqlite://{path}", namespace="n", clock=SystemClock())
    return [(one.verdict, one.text) for one in found if one.subject == "rights"]


@pytest.mark.usefixtures("_umask")
async def test_new_files_belong_to_their_owner_alone(folder: Path) -> None:
    path = folder / "a.db"
    async with node_on(path) as node:
        assert await (await node.schedule(SECRET, "hunter2")).result() == "hunter2"
        assert rights(folder) == {
            "a.db": "0o600",
            "a.db-wal": "0o600",
            "a.db-shm": "0o600",
            "a.db-lock": "0o600",
            "a.db-hints": "0o700",
        }
    assert await exposed(path) == []
    back_up(f"sqlite://{path}", folder / "copy.db")
    assert rights(folder)["copy.db"] == "0o600"


async def test_a_copy_does_not_take_the_rights_of_one_that_was_killed(folder: Path) -> None:
    async with node_on(folder / "a.db"):
        pass
    left = folder / ".copy.db.partial"
    left.touch()
    left.chmod(0o644)

    back_up(f"sqlite://{folder / 'a.db'}", folder / "copy.db")

    assert rights(folder)["copy.db"] == "0o600"


@pytest.mark.parametrize(
    ("given", "lock", "hints"),
    [(0o660, 0o660, 0o770), (0o640, 0o600, 0o700), (0o644, 0o600, 0o700), (0o666, 0o666, 0o777)],
    ids=oct,
)
async def test_what_is_beside_a_file_follows_the_rights_of_the_file(
    folder: Path, given: int, lock: int, hints: int
) -> None:
    """The users that only read the file get no lock file, since a lock of theirs would stop all writes."""
    path = folder / "a.db"
    path.touch()
    for companion in (path, folder / "a.db-lock"):
        companion.touch()
        companion.chmod(given)
    async with node_on(path) as node:
        await node.schedule(SECRET, "x")
        assert rights(folder) == {
            "a.db": oct(given),
            "a.db-wal": oct(given),
            "a.db-shm": oct(given),
            "a.db-lock": oct(lock),
            "a.db-hints": oct(hints),
        }
        path.chmod(0o600)
    async with node_on(path):
        assert set(rights(folder).values()) == {"0o600", "0o700"}


@pytest.mark.parametrize(
    ("given", "verdict", "verb"), [(0o644, Severity.WARN, "read"), (0o666, Severity.FAIL, "write")], ids=["r", "w"]
)
async def test_the_check_names_files_that_all_users_reach(
    folder: Path, given: int, verdict: Severity, verb: str
) -> None:
    path, lock = folder / "a.db", folder / "a.db-lock"
    # a check closes the lock file, so it is for a process that does not have the store open
    async with node_on(path):
        pass
    path.chmod(given)
    lock.chmod(given)
    ((found, text),) = await exposed(path)
    assert found is verdict
    assert text.startswith(f"all users of this machine can {verb} a.db a.db-lock, and ")
    path.chmod(0o640)
    lock.chmod(given)
    ((_, text),) = await exposed(path)
    assert f"can {verb} a.db-lock, and " in text


@needs_root
async def test_another_user_can_open_no_file(folder: Path) -> None:
    async with node_on(folder / "a.db") as node:
        await node.schedule(SECRET, "hunter2")
        output = folder.parent / f"{folder.name}.log"
        with ChildProcess.python("support.sqlite_process", "stranger", str(folder), output=output) as child:
            await child.line("tried a.db a.db-hints a.db-lock a.db-shm a.db-wal$")
            assert "opened" not in output.read_text()
        output.unlink()


@needs_root
async def test_users_of_a_group_share_a_file(folder: Path, tmp_path: Path) -> None:
    """Each of them makes companions that the others can use, and wakes the others."""
    path = shared_file(folder)
    program, url = "support.sqlite_process", f"sqlite://{path}"
    with (
        ChildProcess.python(program, "member", url, "1001", output=tmp_path / "first") as first,
        ChildProcess.python(program, "stranger", str(folder), output=tmp_path / "stranger") as stranger,
    ):
        await first.line("wrote$")
        await until(lambda: not stranger.running)
        assert "opened" not in (tmp_path / "stranger").read_text()
        with ChildProcess.python(program, "member", url, "1002", output=tmp_path / "second") as second:
            await second.line("wrote$")
            await first.line("heard True$")
            assert groups(folder) == {GROUP}
            assert set(rights(folder).values()) == {"0o660", "0o770"}
