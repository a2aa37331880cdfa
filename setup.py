"""Build the package as pyproject.toml says, or refuse a checkout that lacks the links of src/peerjob in one line.

Git on Windows writes a link as a text file by default, and a build from such files would lack most of the package.
"""

import sys
from pathlib import Path


def main() -> None:
    """Run setuptools, if the links are there."""
    package = Path(__file__).parent / "src" / "peerjob"
    broken = sorted(path.name for path in package.iterdir() if path.is_file() and not path.suffix)
    if broken:
        sys.exit(
            f"src/peerjob/{broken[0]} is a text file, expected a link to {broken[0]}/: git wrote no links. Run "
            "`git config core.symlinks true`, then `git checkout -- src/peerjob`. On Windows, switch Developer Mode on "
            "before, or use WSL2"
        )
    # imported late, so that make needs no setuptools for the line above
    from setuptools import setup

    setup()


if __name__ == "__main__":
    main()
