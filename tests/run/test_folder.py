from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minigpt.errors import RunError
from minigpt.run import RunFolder, open_run
from minigpt.run.provenance import changed_since
from tests.records import PROVENANCE, provenance_of, row

HOLD = """
import sys, time
from pathlib import Path
from minigpt.run import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_locked_by_one_process_until_that_process_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"is in use by process {holder.pid}"), RunFolder(tmp_path).locked():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(tmp_path).locked():
        pass


def test_a_link_to_a_folder_has_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with RunFolder(tmp_path / "run").locked():
        assert RunFolder(tmp_path / "link").is_in_use()
        with pytest.raises(RunError, match="is in use by process"), RunFolder(tmp_path / "link").locked():
            pass


def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """safetensors writes below such a path, and cannot read what it wrote."""
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    with pytest.raises(RunError, match="its path is not UTF-8. Choose another place"), RunFolder(odd / "seed-1").locked():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_without_a_run_leaves_no_folders(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "small" / "seed-1").locked():
        pass
    assert list(tmp_path.iterdir()) == []
    with RunFolder(tmp_path / "runs" / "small" / "seed-1").locked():
        (tmp_path / "runs" / "other").mkdir()
    assert [place.name for place in (tmp_path / "runs").iterdir()] == ["other"]


@pytest.mark.parametrize("seeds", [(1, 2), (1, 1)])
def test_locks_exclude_each_other_even_if_their_folder_comes_and_goes(seeds: tuple[int, int], tmp_path: Path) -> None:
    had, inside, wrong = [0, 0], [0, 0, 0], []

    def begin_and_be_refused(number: int, seed: int) -> None:
        for _ in range(200):
            try:
                with RunFolder(tmp_path / "runs" / "small" / f"seed-{seed}").locked():
                    had[number] += 1
                    inside[seed] += 1
                    if inside[seed] != 1:
                        wrong.append("both hold the lock")
                    inside[seed] -= 1
            except RunError:
                pass
            except Exception as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=begin_and_be_refused, args=one) for one in enumerate(seeds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert min(had) > 0
    assert seeds[0] == seeds[1] or had == [200, 200]


def test_checking_a_lock_does_not_prevent_locking(tmp_path: Path) -> None:
    run, looking = RunFolder(tmp_path / "run"), True

    def look() -> None:
        while looking:
            run.is_in_use()

    with run.locked():
        pass
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(100):
            with run.locked():
                pass
    finally:
        looking = False
        thread.join()


def test_a_path_that_is_not_a_run_is_reported_with_the_nearest_run(tmp_path: Path) -> None:
    (tmp_path / "x" / "seed-1").mkdir(parents=True)
    (tmp_path / "x" / "seed-1" / "experiment.json").write_text("{}")
    with pytest.raises(RunError, match=r"is not a run folder: it has no experiment.json; did you mean .*seed-1\?"):
        RunFolder(tmp_path / "x").experiment()
    with pytest.raises(RunError, match="is not a run folder: the folder does not exist$"):
        open_run(tmp_path / "nowhere")


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.rows() == []
    rows = [row(1), row(2, val_loss=2.5)]
    run.metrics.write_text("".join(f"{json.dumps(each.to_json())}\n" for each in rows) + '{"st')
    assert run.rows() == rows


def test_a_run_is_set_aside_and_never_overwritten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "seed-1")
    assert run.set_aside() is None
    for number in (1, 2):
        run.path.mkdir()
        (run.path / "kept").write_text(str(number))
        assert run.set_aside() == tmp_path / f"seed-1.old-{number}"
    assert [(tmp_path / f"seed-1.old-{n}" / "kept").read_text() for n in (1, 2)] == ["1", "2"]


def test_each_change_that_could_change_the_numbers_is_named() -> None:
    training = {"grad_clip": 1.0, "schedule": {"name": "cosine", "warmup": 100}}
    before = copy.deepcopy(PROVENANCE) | {"experiment": {"seed": 1, "training": training}}
    now = copy.deepcopy(before)
    assert changed_since(provenance_of(before), provenance_of(now)) == []
    now["components"][0]["sha256"] = "2"
    now["core"] = "x"
    now["experiment"] = {"seed": 2, "training": {"grad_clip": None, "schedule": {"name": "constant"}}}
    now["data"] |= {"fingerprint": "x", "tokenizer": "x"}
    now["versions"] |= {"torch": "3", "numpy": "2"}
    now["machine"] |= {"device": "cuda", "threads": 8}
    assert [change.line for change in changed_since(provenance_of(before), provenance_of(now))] == [
        "seed (1 then, 2 now)",
        "training.grad_clip (1.0 then, null now)",
        'training.schedule ({"name": "cosine", "warmup": 100} then, {"name": "constant"} now)',
        "the source of norm/a (a.py)",
        "minigpt's model or training code",
        "the data (d then, x now)",
        "the tokenizer (t then, x now)",
        "torch (2 then, 3 now)",
        "numpy (1 then, 2 now)",
        "the device (cpu then, cuda now)",
        "the number of threads (2 then, 8 now)",
    ]
