"""The dataset `text` reads the right files, and never trains on validation text."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import textwrap
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.components.dataset.overlap import text_overlap
from minigpt.contracts import Splits
from minigpt.data import load_corpus
from minigpt.errors import DataError, ExperimentError, MinigptError, TooLargeError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from tests.conftest import Command


def words(seed: int, number: int = 400) -> str:
    """Random words without repeated passages."""
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefghij", k=drawn.randint(2, 9))) for _ in range(number))


def loaded(*paths: Path, **params: Any) -> Splits:
    params = {key: str(value) if isinstance(value, Path) else value for key, value in params.items()}
    splits = REGISTRY.resolve("dataset", {"name": "text", "paths": list(map(str, paths)), **params}).build().load()
    assert isinstance(splits, Splits)
    return splits


def write(folder: Path, **files: str | bytes) -> None:
    """Write files; in names _ stands for the dot before the ending."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        path.write_bytes(content.encode() if isinstance(content, str) else content)


# ------------------------------------------------------------------------------------------- validation is not training


@pytest.mark.parametrize(
    "how", ["itself", "symbolic link", "hard link", "copy", "compressed copy", "copy with a mark", "CRLF", "CR"]
)
def test_validation_text_inside_a_training_folder_is_left_out_and_reported(tmp_path: Path, how: str) -> None:
    write(tmp_path / "corpus", a_txt=words(1))
    val = tmp_path / ("corpus" if how == "itself" else ".") / "val.txt"
    val.write_text(text := words(2).replace("a ", "a\n"))
    other = tmp_path / "corpus" / ("other.txt.gz" if how == "compressed copy" else "other.txt")
    {
        "itself": lambda: None,
        "symbolic link": lambda: other.symlink_to(val),
        "hard link": lambda: other.hardlink_to(val),
        "copy": lambda: other.write_text(text),
        "compressed copy": lambda: other.write_bytes(gzip.compress(text.encode())),
        "copy with a mark": lambda: other.write_text(text, "utf-16"),
        "CRLF": lambda: other.write_bytes(text.replace("\n", "\r\n").encode()),
        "CR": lambda: other.write_bytes(text.replace("\n", "\r").encode()),
    }[how]()
    splits = loaded(tmp_path / "corpus", val_path=val)
    assert (splits.train, splits.val) == (words(1), text)
    left_out = val if how == "itself" else other
    assert splits.notes == (f"left out of training because it is validation text: {left_out}",)


@pytest.mark.parametrize("copied", [False, True])
def test_a_training_file_that_is_the_validation_file_is_refused(tmp_path: Path, copied: bool) -> None:
    write(tmp_path, a_txt=words(1), b_txt=words(2), c_txt=words(2))
    with pytest.raises(
        DataError, match=r"data.paths: .*b.txt(, a copy of .*c.txt,)? is validation text .data.val_path.; take"
    ):
        loaded(tmp_path / "a.txt", tmp_path / "b.txt", val_path=tmp_path / ("c.txt" if copied else "b.txt"))


def test_a_copy_of_the_validation_file_that_is_named_after_its_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, val_txt=words(2))
    folder = tmp_path / "trd"
    write(folder, a_txt=words(1), z_txt=words(2))
    with pytest.raises(DataError, match=r"data.paths: .*z.txt, a copy of .*val.txt, is validation text"):
        loaded(folder, folder / "z.txt", val_path=tmp_path / "val.txt")
    assert loaded(folder, folder, val_path=tmp_path / "val.txt").notes == (
        f"left out of training because it is validation text: {folder / 'z.txt'}",
        f"read once because the content is the same: {folder / 'a.txt'} is {folder / 'a.txt'}",
    )


def test_a_folder_that_is_all_validation_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a_txt=words(1), b_txt=words(2))
    with pytest.raises(DataError, match="data.paths: every file is validation text"):
        loaded(tmp_path, val_path=tmp_path)


@pytest.mark.parametrize("wrapped", ["{0}", "preface\n{0}", "{0}\nafterword", "{1}\n{0}\n{1}"])
def test_validation_text_inside_a_training_file_is_refused(tmp_path: Path, wrapped: str) -> None:
    write(tmp_path, val_txt=words(2), train_txt=wrapped.format(words(2) + ".", words(1)))
    with pytest.raises(DataError, match=r"data.val_path: (9\d|100)% of the validation text is in the training text too"):
        loaded(tmp_path / "train.txt", val_path=tmp_path / "val.txt")


@pytest.mark.parametrize("how", ["CRLF", "trailing spaces", "wrapped", "one line", "indented", "decomposed", "no spaces"])
@pytest.mark.parametrize("number", [60, 30_000])
def test_a_copy_with_other_white_space_or_decomposed_accents_is_a_copy(how: str, number: int) -> None:
    text = textwrap.fill(words(2, number).replace("c", "\u00e7"), 40) + "\n"
    copy = {
        "CRLF": lambda: text.replace("\n", "\r\n"),
        "trailing spaces": lambda: text.replace("\n", "  \n"),
        "wrapped": lambda: textwrap.fill(text, 31),
        "one line": lambda: " ".join(text.split()),
        "indented": lambda: textwrap.indent(text, "\t"),
        "decomposed": lambda: unicodedata.normalize("NFD", text),
        "no spaces": lambda: "".join(text.split()),  # as Chinese lines are joined
    }[how]()
    assert text_overlap(words(1) + copy + words(3), text).shared > 0.95
    assert text_overlap(words(1) + text + words(3), copy).shared > 0.95
    assert text_overlap(words(1, 30_000), copy).shared == 0


@given(st.integers(0, 1), st.integers(0, 100), st.integers(2, 60))
def test_the_overlap_is_the_share_of_copied_text(seed: int, percent: int, thousands: int) -> None:
    val, other = words(seed, 170 * thousands), words(seed + 2, 170 * thousands)
    cut = len(val) * percent // 100
    overlap = text_overlap(other + val[:cut] + other, val)
    assert overlap.shared == pytest.approx(percent / 100, abs=0.1)
    assert overlap.distinct > 0.99


def some_lines(seed: int, number: int, letters: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choice("abcdefghij") for _ in range(letters)) for _ in range(number)]


@pytest.mark.parametrize("letters", [7, 40, 90])
@pytest.mark.parametrize("percent", [0, 50, 100])
def test_lines_that_are_training_lines_in_another_order_are_found(letters: int, percent: int) -> None:
    train = some_lines(1, 3000, letters)
    val = [
        *random.Random(2).sample(train, 4 * percent),
        *(line.upper() for line in some_lines(3, 4 * (100 - percent), letters)),
    ]
    overlap = text_overlap("\n".join(train), "\r\n".join(val))
    assert overlap.shared == pytest.approx(percent / 100, abs=0.03)
    assert overlap.is_copy == (percent == 100)


def test_lines_that_occur_again_by_chance_are_no_overlap() -> None:
    """Of the 1,024 lines of ten bits every one is in both texts; and a play has its speakers' names in each act."""
    generator = random.Random(1)
    bits = [[f"{generator.randrange(1024):010b}" for _ in range(number)] for number in (20_000, 1000)]
    assert text_overlap(*map("\n".join, bits)).shared < 0.02
    names = some_lines(1, 40, 6)
    acts = [[line for said in some_lines(seed, 2000, 30) for line in (generator.choice(names), said)] for seed in (2, 3)]
    assert text_overlap(*map("\n".join, acts)).shared < 0.01


@pytest.mark.parametrize("copies", [2, 3])
def test_validation_lines_are_found_in_a_training_text_that_is_there_several_times(copies: int) -> None:
    train = some_lines(1, 3000, 20)
    val = [*random.Random(2).sample(train, 280), *some_lines(3, 20, 20)]
    overlap = text_overlap("\n".join([*train * copies, "one more line"]), "\n".join(val))
    assert overlap.shared == pytest.approx(280 / 300, abs=0.01)
    assert overlap.is_copy
    assert text_overlap("\n".join(train * copies), "\n".join(some_lines(3, 300, 20))).shared == 0


def test_few_lines_say_nothing() -> None:
    assert text_overlap("\n".join(some_lines(1, 300, 7)), "\n".join(some_lines(1, 300, 7)[:150:10])).shared == 0


def test_a_validation_file_of_training_lines_in_another_order_is_refused(tmp_path: Path) -> None:
    lines = some_lines(1, 1000, 20)
    write(tmp_path, train_txt="\n".join(lines), val_txt="\n".join(random.Random(1).sample(lines, 200)))
    with pytest.raises(DataError, match=r"data.val_path: 100% of the validation text is in the training text too"):
        loaded(tmp_path / "train.txt", val_path=tmp_path / "val.txt")


@pytest.mark.parametrize(("percent", "noted"), [(3, False), (30, True)])
def test_some_validation_lines_in_training_are_reported_from_five_per_cent_on(
    tmp_path: Path, percent: int, noted: bool
) -> None:
    lines = some_lines(1, 5000, 20)
    val = [*random.Random(1).sample(lines, 5 * percent), *some_lines(2, 5 * (100 - percent), 20)]
    write(tmp_path, train_txt="\n".join(lines), val_txt="\n".join(val))
    data = {"name": "text", "paths": [str(tmp_path / "train.txt")], "val_path": str(tmp_path / "val.txt")}
    notes = load_corpus(load_experiment({"data": data})).notes
    assert list(notes) == [f"{percent}% of the validation text, in lines, is in the training text too"] * noted


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_validation_text_in_training_is_reported_or_refused_from_any_dataset(tmp_path: Path, shared: float) -> None:
    val = words(2, 600)
    write(tmp_path, a_txt=words(1, 5400) + val[: int(len(val) * shared)] + val)
    data = {"name": "text", "paths": [str(tmp_path / "a.txt")], "val_fraction": 0.09}
    experiment = load_experiment({"data": data})
    if shared == 1.0:
        with pytest.raises(
            DataError, match=r"data: \d+% of the validation text, in windows of 64 characters, is in the train"
        ):
            load_corpus(experiment)
        return
    notes = load_corpus(experiment).notes
    assert len(notes) == (shared > 0)
    assert all("of the validation text, in windows of 64 characters, is in the training text too" in note for note in notes)


def test_left_out_files_are_reported_and_recorded(minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minigpt.run import RunFolder

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "corpus", a_txt=words(1), val_txt=words(2), b_pdf="not read")
    data = {"name": "text", "paths": ["corpus"], "val_path": "corpus/val.txt"}
    model = {"d_model": 8, "n_heads": 1, "n_layers": 1, "block_size": 8}
    (tmp_path / "one.json").write_text(
        json.dumps({"data": data, "model": model, "training": {"max_iters": 1, "batch_size": 1}})
    )
    code, out, err = minigpt("run", "one.json")
    assert code == 0, err
    lines = ["data.paths: 1 file skipped: 1 .pdf", "left out of training because it is validation text: "]
    assert all(line in out.replace("\n", "") for line in lines)
    recorded = RunFolder(Path("runs/one/seed-1337")).provenance().data.notes
    assert [note.startswith(line) for note, line in zip(recorded, lines, strict=True)] == [True, True]


def test_a_comparison_reports_left_out_files_with_its_plan(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "corpus", a_txt=words(1), b_pdf="not read")
    document = {
        "data": {"name": "text", "paths": ["corpus"]},
        "model": {"d_model": 8, "n_heads": 1, "n_layers": 1, "block_size": 8},
        "training": {"max_iters": 1, "batch_size": 2},
    }
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    code, out, err = minigpt("compare", "one.json", "two.json", "--plan", "--seeds", "2", "--no-noise")
    assert code == 0, err
    assert out.count("data.paths: 1 file skipped: 1 .pdf") == 1


# ------------------------------------------------------------------------------------------------------- which files


@pytest.mark.parametrize("how", ["named twice", "symbolic link", "hard link", "copy"])
def test_a_file_that_occurs_twice_is_read_once_and_reported(tmp_path: Path, how: str) -> None:
    write(tmp_path, a_txt=words(1))
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    {
        "named twice": lambda: None,
        "symbolic link": lambda: second.symlink_to(first),
        "hard link": lambda: second.hardlink_to(first),
        "copy": lambda: second.write_text(words(1)),
    }[how]()
    splits = loaded(first, first if how == "named twice" else second)
    assert f"{splits.train}{splits.val}" == words(1)
    again = first if how == "named twice" else second
    assert splits.notes == (f"read once because the content is the same: {again} is {first}",)


def test_links_to_folders_are_followed_once_and_never_upwards(tmp_path: Path) -> None:
    corpus = tmp_path / "above" / "corpus"
    write(corpus / "b", x_txt="x" * 30)
    write(tmp_path / "elsewhere", y_txt="y" * 30)
    write(tmp_path / "above", never_txt="never read: no path names this folder")
    (corpus / "a").symlink_to(tmp_path / "elsewhere")
    (corpus / "c").symlink_to(tmp_path / "elsewhere")
    for name in ("b/up", "b/up2", "b/top"):
        (corpus / name).symlink_to(corpus / ".." if name == "b/top" else corpus)
    (corpus / "broken").symlink_to(corpus / "nowhere")
    (corpus / "itself").symlink_to(corpus / "itself")
    os.mkfifo(corpus / "pipe.txt")
    splits = loaded(corpus)
    assert f"{splits.train}{splits.val}" == "y" * 30 + "\n" + "x" * 30
    assert splits.notes == (
        "data.paths: 7 files skipped: 4 link to a folder above it or read already, 2 broken link, 1 not an ordinary file",
    )


def test_endings_match_in_upper_case_and_compressed_and_other_files_are_counted(tmp_path: Path) -> None:
    write(tmp_path, a_txt="one 1", B_TXT="two 2", c_MD="three 3", e_pdf="e", f_PDF="f", g_py="g", README="h")
    (tmp_path / "d.Txt.GZ").write_bytes(gzip.compress(b"four 4"))
    (tmp_path / ".hidden.txt").write_text("i")
    splits = loaded(tmp_path)
    assert f"{splits.train}{splits.val}" == "two 2\none 1\nthree 3\nfour 4"
    assert splits.notes == ("data.paths: 5 files skipped: 2 .pdf, 1 .py, 1 hidden, 1 without an ending",)
    assert loaded(tmp_path, suffixes=["PDF", ".Py"]).notes == (
        "data.paths: 6 files skipped: 3 .txt, 1 .md, 1 hidden, 1 without an ending",
    )


# ---------------------------------------------------------------------------------------------------------- compressed


def with_checksum(content: bytes) -> bytes:
    """Compress as the command `zstd` does."""
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": with_checksum}


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_files_are_decompressed_under_any_name(tmp_path: Path, suffix: str) -> None:
    content = PACK[suffix](words(1).encode())
    for name in (f"a.txt{suffix}", "b.txt"):
        (tmp_path / name).write_bytes(content + content)  # two members make one text
        splits = loaded(tmp_path / name)
        assert f"{splits.train}{splits.val}" == words(1) * 2


@pytest.mark.parametrize("suffix", PACK)
@settings(max_examples=20)
@given(data=st.data())
def test_damage_in_a_compressed_file_is_a_one_line_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("damaged") / f"a.txt{suffix}"
    content = bytearray(PACK[suffix](words(1).encode()))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(10, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    refusal = ""
    try:
        splits = loaded(file)
    except (DataError, TooLargeError) as error:
        refusal = str(error)
    if refusal:
        assert str(file) in refusal
        assert len(refusal.splitlines()) == 1
    else:  # a byte of a header that does not affect the content
        assert f"{splits.train}{splits.val}" == words(1)


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_that_grows_more_than_text_is_refused_early(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.txt{suffix}").write_bytes(PACK[suffix](b"\0" * (1 << 26) + b"\0" * (1 << 20)))
    with pytest.raises(
        TooLargeError,
        match=r"a.txt\S+ is [\d.,]+ (kB|bytes) compressed and more than 67.1 MB decompressed: text does not grow",
    ):
        loaded(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_text_that_memory_cannot_hold_is_refused(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minigpt.components.dataset.text.available_memory", lambda: 30_000)
    monkeypatch.setattr("minigpt.system.memory.available_memory", lambda device=None: 30_000)
    text = words(1, 4000).encode()
    (tmp_path / "a.txt").write_bytes(lzma.compress(b"many words " * 4000) if packed else text)
    with pytest.raises(TooLargeError, match="no memory for more" if packed else "reading the text of data.paths needs 7"):
        loaded(tmp_path)


def test_a_file_of_300_gb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(300 * 10**9)
    with pytest.raises(TooLargeError, match="reading the text of data.paths needs 900 GB of memory, and"):
        loaded(tmp_path)


def test_zstd_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "backports.zstd" if sys.version_info < (3, 14) else "compression.zstd", None)
    monkeypatch.delattr("backports.zstd", raising=False)
    (tmp_path / "a.txt").write_bytes(zstd.compress(b"text"))
    with pytest.raises(DataError, match=r"a.txt is a zstd file: pip install 'minigpt-lab\[corpora\]'"):
        loaded(tmp_path)


@pytest.mark.parametrize("params", [{"encoding": "utf-9"}, {"encoding": "rot13"}, {"encoding": "\0"}, {"encoding": ""}])
def test_an_encoding_that_python_does_not_have_is_refused_when_the_experiment_is_read(params: dict[str, Any]) -> None:
    with pytest.raises(ExperimentError, match=r'data: text: ".*" is not a text encoding of Python; allowed: utf-8'):
        load_experiment({"data": {"name": "text", "paths": ["a.txt"], **params}})
    with pytest.raises(MinigptError, match='did you mean "utf_8"'):
        load_experiment({"data": {"name": "text", "paths": ["a.txt"], "encoding": "utf-9"}})
