"""`minigpt show`: the resolved experiment, what it costs, and files that only look like a run's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.small import ROOT
from tests.conftest import Command


def test_a_users_own_file_may_be_called_experiment_json(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parent.json").write_text('{"model": {"d_model": 12, "n_heads": 2}}')
    Path("experiment.json").write_text('{"extends": "parent.json"}')
    code, out, err = minigpt("show", "experiment.json", "--json", "--set", "model.dropout=0.5")
    assert code == 0, err
    model = json.loads(out)["model"]
    assert (model["d_model"], model["dropout"]) == (12, 0.5)


def test_show_prints_the_size_of_the_decoding_state(minigpt: Command) -> None:
    def last_line(*changes: str) -> str:
        settings = [word for change in changes for word in ("--set", change)]
        code, out, err = minigpt("show", ROOT / "experiments/quickstart.json", "--vocab-size", "65", *settings)
        assert code == 0, err
        return out.splitlines()[-1]

    # keys and values in 4 layers with 4 heads of size 32, four bytes each; a window of 8 keeps 16 tokens
    assert last_line() == "decoding state: 4,096 bytes per token; 524,288 bytes at 128 tokens (fp32)"
    window = last_line("model.attention.window=8")
    assert window == "decoding state: 65,536 bytes at any length; 65,536 bytes at 128 tokens (fp32)"
    mixed = last_line("model.position=none", 'model.layers=[{"attention":{"window":8}},{}]')
    assert (
        mixed == "decoding state: 2,048 bytes per token and 32,768 bytes at any length; 294,912 bytes at 128 tokens (fp32)"
    )


def test_show_prints_the_resolved_experiment_and_counts(minigpt: Command) -> None:
    code, out, _ = minigpt("show", ROOT / "experiments/baseline.json", "--vocab-size", "65")
    assert code == 0
    document, _, table = out.partition("\n}\n")
    assert json.loads(document + "}")["model"]["norm"]["eps"] == 1e-5
    assert "10,770,816" in table
    assert re.search(r"blocks\.0–5 +PreNormBlock +10,646,784", table)
    code, out, _ = minigpt("show", ROOT / "experiments/baseline.json", "--json", "--set", 'model.layers=[{},{"ffn":"glu"}]')
    assert json.loads(out)["model"]["layers"][1]["ffn"]["name"] == "glu"
    out = minigpt("show", ROOT / "experiments/baseline.json", "--set", 'model.layers=[{},{"ffn":"glu"}]')[1]
    assert "blocks.0 " in out
    assert "blocks.1 " in out
    assert re.search(r"\n *0, 2, 4 +none *\n *1, 3, 5 +ffn +glu in place of mlp *\n", out)
    assert "a placeholder, because the corpus is not on this machine; set it with --vocab-size" in " ".join(out.split())


@pytest.mark.slow
def test_show_counts_and_measures_what_a_model_costs(minigpt: Command) -> None:
    small = ["--set", "model.n_layers=1", "--set", "training.batch_size=2", "--set", "model.block_size=16"]
    code, out, _ = minigpt("show", ROOT / "experiments/quickstart.json", "--vocab-size", "65", "--cost", *small)
    assert code == 0
    assert re.search(r"parameters, attention +66,048", out)
    assert re.search(r"parameters, total +\d", out)
    assert "used by each token" not in out
    assert len(re.findall(r"[\d,]+ tokens/s \([\d,]+ to [\d,]+\)", out)) == 2
    moe = minigpt(
        "show", ROOT / "experiments/quickstart.json", "--vocab-size", "65", "--cost", *small, "--set", "model.ffn=moe"
    )
    assert re.search(r"used by each token +\d", moe[1])


def test_show_knows_a_runs_vocabulary(minigpt: Command, trained: Path) -> None:
    code, out, _ = minigpt("show", trained)
    assert code == 0
    assert "(of this run)" in out
