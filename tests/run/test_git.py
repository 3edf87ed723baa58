"""Tests that the git state is read without executing anything that a folder's configuration names."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from minigpt.run import git


def call(*words: str) -> str:
    """Call git without the configuration of this machine."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    person = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *person, *words], capture_output=True, text=True, check=True, env=environment).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which is the working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    call("init", "-q")
    Path("a.txt").write_text("one\n")
    Path("b.py").write_text("x = 1\n")
    Path("sub").mkdir()
    Path("sub/c d\n.txt").write_text("three\n")
    Path("link").symlink_to("a.txt")
    call("add", "-A")
    call("commit", "-q", "-m", "first")
    return folder


def uncommitted() -> str | None:
    found = git.state()
    assert found is not None
    assert found.commit == call("rev-parse", "HEAD").strip()
    return found.uncommitted


def test_an_unchanged_folder_has_its_commit_and_no_uncommitted_changes(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert uncommitted() is None
    monkeypatch.chdir(repository / "sub")
    assert uncommitted() is None, "also from a subfolder"
    assert (repository / "HEAD").write_text("a file of that name is no trouble")
    assert uncommitted() is None


def test_outside_of_a_repository_there_is_no_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.state() is None


CHANGES = {
    "edited": lambda: Path("a.txt").write_text("two\n"),
    "edited, as long as it was": lambda: Path("b.py").write_text("x = 2\n"),
    "staged": lambda: (Path("a.txt").write_text("two\n"), call("add", "a.txt")),
    "added": lambda: (Path("new.txt").write_text("new\n"), call("add", "new.txt")),
    "removed": lambda: Path("sub/c d\n.txt").unlink(),
    "a program now": lambda: Path("b.py").chmod(0o755),
    "another link": lambda: (Path("link").unlink(), Path("link").symlink_to("b.py")),
    "a file for a link": lambda: (Path("link").unlink(), Path("link").write_text("a.txt")),
    "a folder for a file": lambda: (Path("a.txt").unlink(), Path("a.txt").mkdir()),
    "a pipe for a file": lambda: (Path("a.txt").unlink(), os.mkfifo("a.txt")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_tracked_file_gives_a_different_digest(change: str, repository: Path) -> None:
    CHANGES[change]()
    found = uncommitted()
    assert found is not None
    assert found == uncommitted(), "equal changes give equal digests"
    assert len(found) == 64
    call("config", "core.fsmonitor", "false")
    Path("b.py").write_text("x = 123\n")
    assert uncommitted() != found


def test_untracked_and_touched_files_are_no_change(repository: Path) -> None:
    Path("other.txt").write_text("not tracked\n")
    os.utime("a.txt", (1e9, 1e9))
    assert uncommitted() is None


def test_a_file_that_differs_only_by_a_filter_is_no_change(repository: Path) -> None:
    """The committed content is a filter's output; git has recorded that the file is unchanged."""
    Path(".gitattributes").write_text("*.crlf text eol=crlf\n")
    Path("lines.crlf").write_bytes(b"one\r\ntwo\r\n")
    past = time.time() - 100
    os.utime("lines.crlf", (past, past))
    call("add", "-A")
    call("commit", "-q", "-m", "second")
    assert uncommitted() is None


def _mark(folder: Path, name: str) -> tuple[str, Path]:
    """A program that writes a file when it is executed and copies its input to its output; and the path of the file."""
    program, mark = folder.parent / f"{name}.sh", folder.parent / f"{name}.executed"
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\ncat\n")
    program.chmod(0o755)
    return str(program), mark


PLANTED = {
    "core.fsmonitor": ("config", "core.fsmonitor"),
    "diff.external": ("config", "diff.external"),
    "core.pager": ("config", "core.pager"),
    "diff.x.textconv": ("config", "diff.x.textconv"),
    "diff.x.command": ("config", "diff.x.command"),
    "filter.x.clean": ("config", "filter.x.clean"),
    "filter.x.smudge": ("config", "filter.x.smudge"),
    "filter.x.process": ("config", "filter.x.process"),
    "core.sshCommand": ("config", "core.sshCommand"),
    "core.editor": ("config", "core.editor"),
    "gpg.program": ("config", "gpg.program"),
    "credential.helper": ("config", "credential.helper"),
    "alias.ls-files": ("alias", "alias.ls-files"),
    "alias.ls-tree": ("alias", "alias.ls-tree"),
    "post-index-change": ("hook", "post-index-change"),
    "fsmonitor-watchman": ("hook", "fsmonitor-watchman"),
    "reference-transaction": ("hook", "reference-transaction"),
    "GIT_EXTERNAL_DIFF": ("environment", "GIT_EXTERNAL_DIFF"),
    "GIT_PAGER": ("environment", "GIT_PAGER"),
    "GIT_CONFIG_PARAMETERS": ("environment", "GIT_CONFIG_PARAMETERS"),
    "GIT_CONFIG_COUNT": ("count", "GIT_CONFIG_COUNT"),
    "includeIf": ("include", "core.fsmonitor"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_that_a_folder_or_an_environment_names_is_executed(
    planted: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name = PLANTED[planted]
    program, mark = _mark(repository, "planted")
    Path(".gitattributes").write_text("* diff=x filter=x\n")
    call("add", ".gitattributes")
    call("commit", "-q", "-m", "attributes")
    match kind:
        case "config":
            call("config", name, program)
        case "alias":
            call("config", name, f"!{program}")
        case "hook":
            shutil.copy(program, f".git/hooks/{name}")
        case "environment":
            monkeypatch.setenv(name, f"'core.fsmonitor={program}'" if name == "GIT_CONFIG_PARAMETERS" else program)
        case "count":
            monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
            monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
            monkeypatch.setenv("GIT_CONFIG_VALUE_0", program)
        case "include":
            Path(".git/more").write_text(f"[core]\n\tfsmonitor = {program}\n")
            call("config", "includeIf.gitdir:**.path", "more")
    Path("a.txt").write_text("two\n")
    os.utime("b.py", (4e9, 4e9))  # so that git would have to read and filter the file to see that it is unchanged
    found = git.state()
    assert found is not None
    assert found.uncommitted not in (None, "unknown")
    assert not mark.exists()


def test_a_submodule_with_its_own_monitor_is_not_read(repository: Path) -> None:
    program, mark = _mark(repository, "inner")
    call("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "inner")
    call("commit", "-q", "-m", "submodule")
    call("-C", "inner", "config", "core.fsmonitor", program)
    Path("inner/a.txt").write_text("changed\n")
    mark.unlink(missing_ok=True)
    assert uncommitted() is None
    assert not mark.exists()


def test_missing_objects_are_not_fetched_by_a_program_that_the_folder_names(repository: Path) -> None:
    """A partial clone fetches missing objects with a program that its configuration names."""
    program, mark = _mark(repository, "fetch")
    tree = call("rev-parse", "HEAD^{tree}").strip()
    Path(f".git/objects/{tree[:2]}/{tree[2:]}").unlink()
    for key, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.url", str(repository)),
        ("remote.origin.promisor", "true"),
        ("remote.origin.partialCloneFilter", "blob:none"),
        ("remote.origin.uploadpack", program),
    ):
        call("config", key, value)
    found = git.state()
    assert found is not None
    assert found.uncommitted == "unknown"
    assert not mark.exists()


def test_a_program_named_git_in_the_working_folder_is_not_executed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, mark = _mark(repository, "git")
    shutil.copy(program, "git")
    monkeypatch.setenv("PATH", str(repository), prepend=os.pathsep)
    assert git.state() is None
    assert not mark.exists()
