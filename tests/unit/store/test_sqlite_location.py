"""Where the file of a SQLite store may be, and which URLs name one."""

from pathlib import Path
from urllib.parse import quote

import pytest

from peerjob.model.errors import OptionError
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.location import check_location, file_system_of

MOUNTS = r"""
24 1 0:22 / /proc rw,nosuid shared:12 - proc proc rw
26 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
61 26 0:50 / /mnt/team rw,relatime shared:30 - nfs4 server:/team rw,vers=4.2
62 61 0:51 / /mnt/team/my\040disk rw,relatime - xfs /dev/vdb rw
63 26 0:52 / /home/x/far rw - fuse.sshfs x@far: rw
64 26 0:53 / /over rw - nfs server:/a rw
65 64 0:54 / /over rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/app", "ext4"),
        ("/mnt/team/app", "nfs4"),
        ("/mnt/teams", "ext4"),
        ("/mnt/team/my disk/app", "xfs"),
        ("/home/x/far", "fuse.sshfs"),
        ("/over/it", "tmpfs"),
    ],
)
def test_a_folder_belongs_to_the_last_mount_above_it(folder: str, kind: str) -> None:
    assert file_system_of(Path(folder), MOUNTS) == kind


def test_without_mounts_the_kind_is_unknown() -> None:
    assert file_system_of(Path("/srv"), "") == ""


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/a.db", "/var/lib/a.db"),
        ("sqlite:////var/lib/a.db", "/var/lib/a.db"),
        ("sqlite:////a.db", "/a.db"),
        ("sqlite:///var/../lib/a%20b.db?sync=normal", "/lib/a b.db"),
        ("sqlite:///./a.db", str(Path.cwd() / "a.db")),
        ("sqlite:///../a.db", str(Path.cwd().parent / "a.db")),
    ],
    ids=["root", "two slashes", "file of the root", "folder above", "this folder", "parent of this folder"],
)
def test_a_url_names_an_absolute_path(url: str, path: str) -> None:
    assert str(parse_address(url).path) == path


@pytest.mark.parametrize("url", ["sqlite:///a.db", "sqlite:///var/../a.db?sync=normal"])
def test_a_file_in_the_root_folder_is_refused(url: str) -> None:
    """In SQLAlchemy and its relatives, such a URL names a file in the current folder."""
    with pytest.raises(OptionError, match=r"sqlite:///\./a\.db for a file in the current folder, or sqlite:////a\.db"):
        parse_address(url)


def test_the_url_of_a_file_in_the_root_folder_is_accepted() -> None:
    url = parse_address("sqlite:////a.db").url
    assert url == "sqlite:////a.db"
    assert parse_address(url).path == Path("/a.db")


def test_the_url_of_a_store_tells_the_absolute_path() -> None:
    here = quote(str(Path.cwd()))
    assert parse_address("sqlite:///./a b.db?sync=normal").url == f"sqlite://{here}/a%20b.db?sync=normal"


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///", "sqlite://a.db", "sqlite://host/a.db", "sqlite:a.db", "sqlite:///a/", "sqlite:///a#b"],
)
def test_a_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="sqlite:///path/file"):
        parse_address(url)


@pytest.mark.parametrize(("query", "expected"), [("sync=fast", "full or normal"), ("sink=full", "one of sync")])
def test_an_unknown_option_is_refused(query: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        parse_address(f"sqlite:///./a.db?{query}")


def test_a_place_that_cannot_have_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.db").touch()
    (tmp_path / "two.db").hardlink_to(tmp_path / "one.db")
    for path, expected in (
        (tmp_path, "a file, not a folder"),
        (tmp_path / "no" / "a.db", "in a folder that exists"),
        (tmp_path / "one.db" / "a.db", "in a folder that exists"),
        (tmp_path / "two.db", "2 hard links"),
    ):
        with pytest.raises(OptionError, match=expected):
            check_location(path)
    check_location(tmp_path / "new.db")
