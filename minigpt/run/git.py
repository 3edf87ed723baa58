"""Read the git state of the working folder, without executing anything that its configuration names.

`git diff` and `git status` run programs that a repository's configuration names: a file system monitor, filters,
external diffs. So git only lists the files in HEAD and in the index, and the files are hashed here.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from minigpt.run.recorded import Git

_SECONDS = 10.0
_CHUNK = 1 << 20
_SKIPPED = 1 << 30  # a bit of an entry's flags: a sparse checkout leaves the file out
_SUBMODULE, _LINK, _FILE, _PROGRAM = b"160000", b"120000", b"100644", b"100755"


@dataclass(frozen=True)
class _Tracked:
    """A file that git tracks.

    Attributes:
        mode: `100644`, `100755`, `120000` for a link, `160000` for a submodule.
        blob: The id of its content.
        seen: Size, and time of change in nanoseconds, when git last saw that it has this content; None if unknown.
        skipped: Whether it is left out of the working folder on purpose.
    """

    mode: bytes
    blob: bytes
    seen: tuple[int, int] | None = None
    skipped: bool = False


def state() -> Git | None:
    """The commit of the working folder, and the SHA-256 of uncommitted changes; None outside of a repository.

    A tracked file counts as changed if its bytes differ from the commit, unless git has recorded that it is unchanged
    (for example after a filter). Submodules are left out. If this takes more than ten seconds, or the index cannot be
    read, the uncommitted changes are `unknown`.
    """
    commit, top = _ask("rev-parse", "--verify", "HEAD^{commit}"), _ask("rev-parse", "--show-toplevel")
    if not commit or not top:
        return None
    head, root = commit.decode("ascii").strip(), Path(os.fsdecode(top.removesuffix(b"\n")))
    committed = _ask("ls-tree", "-r", "-z", "--full-tree", head, "--", at=root)
    index = _ask("ls-files", "-z", "--stage", "--debug", "--", at=root)
    place = _ask("rev-parse", "--git-path", "index", at=root)
    if committed is None or index is None or place is None:
        return Git(commit=head, uncommitted="unknown")
    try:
        written = os.stat(root / os.fsdecode(place.removesuffix(b"\n"))).st_mtime_ns
    except OSError:  # there is no index, because no file was ever added
        written = 0
    files = _Files(root, _tree(committed), _index(index), written, time.monotonic() + _SECONDS)
    return Git(commit=head, uncommitted=files.difference())


def _ask(*words: str, at: Path | None = None) -> bytes | None:
    """The output of a git command that reads only git's own files; None if it fails."""
    program = shutil.which("git")
    if program is None or Path(program).absolute().parent == Path.cwd():  # Windows looks into the working folder first
        return None
    # The user's own configuration is used (it contains safe.directory), but not variables set for another git command.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",  # a missing object is not fetched, because the folder may name the program for it
        "GIT_ALLOW_PROTOCOL": "none",  # the same for older versions of git, which ignore the line above
        "GIT_TERMINAL_PROMPT": "0",
    }
    settings = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.untrackedCache=false")
    command = [program, "--no-pager", *(word for setting in settings for word in ("-c", setting)), *words]
    try:
        return subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=True, env=environment, cwd=at
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _tree(listing: bytes) -> dict[bytes, _Tracked]:
    """Parse `git ls-tree -z`: entries `mode type id TAB path`, each ended by NUL."""
    tracked = {}
    for line in listing.split(b"\0"):
        if line:
            fields, _, path = line.partition(b"\t")
            mode, _, blob = fields.split()
            tracked[path] = _Tracked(mode, blob)
    return tracked


_ENTRY = re.compile(
    rb"(?P<mode>\d{6}) (?P<blob>[0-9a-f]+) \d\t(?P<path>[^\0]*)\0"
    rb"(?:  ctime: \d+:\d+\n  mtime: (?P<seconds>\d+):(?P<nanoseconds>\d+)\n[^\n]*\n[^\n]*\n"
    rb"  size: (?P<size>\d+)\tflags: (?P<flags>[0-9a-f]+)\n)?"
)


def _index(listing: bytes) -> dict[bytes, _Tracked]:
    """Parse `git ls-files --stage --debug -z`: `mode id stage TAB path NUL`, and the recorded file status if present."""
    tracked = {}
    for entry in _ENTRY.finditer(listing):
        seen, skipped = None, False
        if entry["size"] is not None:
            seen = int(entry["size"]), int(entry["seconds"]) * 10**9 + int(entry["nanoseconds"])
            skipped = bool(int(entry["flags"], 16) & _SKIPPED)
        tracked[entry["path"]] = _Tracked(entry["mode"], entry["blob"], seen, skipped)
    return tracked


@dataclass(frozen=True)
class _Files:
    """The tracked files of a working folder.

    Attributes:
        root: The folder.
        committed: The files in HEAD.
        index: The files in the index.
        written: When the index was written; its status of files that changed later is out of date.
        until: When to give up.
    """

    root: Path
    committed: dict[bytes, _Tracked]
    index: dict[bytes, _Tracked]
    written: int
    until: float

    def difference(self) -> str | None:
        """SHA-256 of the names and contents of files that differ from the commit; None if no file differs."""
        lines = []
        try:
            for path in sorted(self.committed.keys() | self.index.keys()):
                content = self._content(path)
                if content is not None:
                    lines.append(path + b"\0" + content.encode() + b"\n")
        except TimeoutError:
            return "unknown"
        return hashlib.sha256(b"".join(lines)).hexdigest() if lines else None

    def _content(self, path: bytes) -> str | None:
        """Mode and SHA-256 of a file's content now; None if it is unchanged since the commit."""
        before, staged = self.committed.get(path), self.index.get(path)
        if _SUBMODULE in (named.mode for named in (before, staged) if named) or (before and staged and staged.skipped):
            return None
        file = os.path.join(os.fsencode(self.root), path)
        try:
            status = os.lstat(file)
            if stat.S_ISLNK(status.st_mode):
                return _unless(before, _LINK, *self._digests(os.readlink(file), None, before))
            if not stat.S_ISREG(status.st_mode):
                return "no file"
            mode = _PROGRAM if status.st_mode & stat.S_IXUSR else _FILE
            if os.name == "nt" and before:  # Windows has no executable bit
                mode = before.mode
            seen = status.st_size, status.st_mtime_ns
            same = before and staged and (before.mode, before.blob) == (staged.mode, staged.blob) and before.mode == mode
            if same and staged and staged.seen == seen and status.st_mtime_ns < self.written:
                return None
            return _unless(before, mode, *self._digests(b"", file, before))
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            return "no file"

    def _digests(self, content: bytes, file: bytes | None, before: _Tracked | None) -> tuple[str, str]:
        """The git id and the SHA-256 of some content, or of a file's content."""
        plain, blob = hashlib.sha256(), hashlib.sha256() if before and len(before.blob) == 64 else hashlib.sha1()
        size = len(content) if file is None else os.stat(file).st_size
        blob.update(b"blob %d\0" % size)
        with io.BytesIO(content) if file is None else open(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                if time.monotonic() > self.until:
                    raise TimeoutError
                plain.update(chunk)
                blob.update(chunk)
        return blob.hexdigest(), plain.hexdigest()


def _unless(before: _Tracked | None, mode: bytes, blob: str, sha256: str) -> str | None:
    """The mode and SHA-256 of a file; None if mode and content are those of the commit."""
    return None if before and (before.mode, before.blob) == (mode, blob.encode()) else f"{mode.decode()} {sha256}"
