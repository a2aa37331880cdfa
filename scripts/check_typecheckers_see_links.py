"""Check that the named type checkers, as configured, look into every linked folder of src/peerjob.

pyright does not follow links: `pyright src` silently checks half of the package. So the script makes a copy with only
the configuration and the links, plants an error in each folder, and expects each checker to find it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src", "peerjob")
LINKS = [path.relative_to(ROOT) for path in sorted((ROOT / PACKAGE).iterdir()) if path.is_symlink()]
FOLDERS = [PACKAGE, *LINKS, Path("tests"), Path("scripts")]


def plant(home: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", home)
    for folder in (PACKAGE, Path("tests"), Path("scripts")):
        (home / folder).mkdir(parents=True)
    for link in LINKS:
        target = (ROOT / link).readlink()
        (home / link).symlink_to(target)
        (home / link).resolve().mkdir()
        (home / link / "__init__.py").touch()
    (home / PACKAGE / "__init__.py").touch()
    for number, folder in enumerate(FOLDERS):
        (home / folder / f"planted_{number}.py").write_text('planted: int = "no number"\n')


def missed(checker: str, home: Path) -> list[str]:
    """Run a checker in the copy and name the folders in which it found no error."""
    command = [Path(sys.executable).with_name(checker)]
    output = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False).stdout
    seen = {int(number) for number in re.findall(r"planted_(\d+)\.py:\d.*error", output)}
    return [str(folder) for number, folder in enumerate(FOLDERS) if number not in seen]


def main() -> int:
    assert LINKS, "src/peerjob has no links"
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        plant(Path(home))
        for checker in sys.argv[1:]:
            if folders := missed(checker, Path(home)):
                print(f"{checker} does not look into {', '.join(folders)}: see pyproject.toml")
                failed = 1
            else:
                print(f"{checker} looks into all {len(FOLDERS)} folders")
    return failed


if __name__ == "__main__":
    sys.exit(main())
