"""Generate the Python messages and their types from the .proto files; --check only reports stale files."""

import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROTOS = [path.relative_to(ROOT) for path in sorted((ROOT / "proto").rglob("*.proto"))]


def generate(home: Path) -> list[Path]:
    """Generate in a copy that has the layout of the Python packages; returns the generated files."""
    for proto in PROTOS:
        (home / "peerjob" / proto).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / proto, home / "peerjob" / proto)
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    protoc = Path(str(resources.files("protoc")), "data")
    folders = [f"--proto_path={home}", f"--proto_path={protoc / 'include'}"]
    outputs = [f"--plugin={plugin}", f"--python_out={home}", "--mypy_out=quiet:."]
    command = [str(protoc / "bin" / "protoc"), *folders, *outputs, *(str(Path("peerjob", proto)) for proto in PROTOS)]
    subprocess.run(command, cwd=home, check=True)
    return [path.relative_to(home / "peerjob") for path in sorted(home.rglob("*_pb2.py*"))]


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        made = generate(home)
        kept = {path.relative_to(ROOT) for path in (ROOT / "proto").rglob("*_pb2.py*") if path.suffix != ".pyc"}
        stale = [path for path in made if not _same(home / "peerjob" / path, ROOT / path)]
        orphans = kept - set(made)
        if check:
            for path in (*stale, *orphans):
                print(f"{path} differs from the .proto files; run scripts/generate_proto.py")
            return 1 if stale or orphans else 0
        for path in stale:
            shutil.copy(home / "peerjob" / path, ROOT / path)
        for path in orphans:
            (ROOT / path).unlink()
    return 0


def _same(new: Path, old: Path) -> bool:
    return old.exists() and new.read_bytes() == old.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
