"""Name each action of the workflows by the hash of its commit, with its tag as a comment: `uses: owner/name@HASH # v4`.

A tag can be moved to another commit, and a hash cannot. git asks the repository of each action for the commit of the
tag, so this needs GitHub. An action that has a hash already stays as it is: dependabot raises it, with the comment.
With --check, the script writes nothing, and exits with 1 if an action is named by a tag.
"""

import re
import subprocess
import sys
from pathlib import Path

WORKFLOWS = Path(".github", "workflows")
USES = re.compile(r"(?<=uses: )([\w.-]+/[\w.-]+)((?:/[\w./-]+)?)@([\w./-]+)(?: # \S+)?$", re.MULTILINE)
HASH = re.compile(r"[0-9a-f]{40}")


def main() -> int:
    files = {path: path.read_text() for path in sorted(WORKFLOWS.glob("*.yml"))}
    named = {
        (action, tag) for text in files.values() for action, _, tag in USES.findall(text) if not HASH.fullmatch(tag)
    }
    if sys.argv[1:] == ["--check"]:
        for action, tag in sorted(named):
            print(f"{action}@{tag} is named by a tag, which can be moved: make pin-actions")
        return 1 if named else 0
    commits = {key: commit_of(*key) for key in sorted(named)}

    def pinned(match: re.Match[str]) -> str:
        action, folder, tag = match.groups()
        return f"{action}{folder}@{commits[action, tag]} # {tag}" if (action, tag) in commits else match[0]

    for path, text in files.items():
        path.write_text(USES.sub(pinned, text))
    print(f"{len(commits)} actions are named by their hash now; review the difference before you commit it")
    return 0


def commit_of(action: str, name: str) -> str:
    """The commit of a tag, or of a branch if there is no such tag."""
    url = f"https://github.com/{action}"
    # an annotated tag is an object of its own; the line with ^{} names its commit
    names = [f"refs/tags/{name}^{{}}", f"refs/tags/{name}", f"refs/heads/{name}"]
    done = subprocess.run(["git", "ls-remote", url, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pin_actions: git cannot read {url}: {done.stderr.strip().splitlines()[-1]}")
    found = {ref: commit for commit, ref in (line.split("\t") for line in done.stdout.splitlines())}
    for ref in names:
        if ref in found:
            return found[ref]
    sys.exit(f"pin_actions: {url} has neither a tag nor a branch {name}")


if __name__ == "__main__":
    sys.exit(main())
