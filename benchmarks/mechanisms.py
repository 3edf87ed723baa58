"""The 25 published mechanisms that a plugin file must be able to add: what `reach.py` checks, trains and lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "plugins", ROOT / "benchmarks" / "reach")


@dataclass(frozen=True)
class Part:
    """One file of a mechanism.

    Attributes:
        name: Of a plugin file, without `.py`; or family/name of a shipped component.
        settings: What the training run sets, beside the small model. `{text}` and `{other}` are text files, `{ids}` a file
            of token ids, and `{run}` a finished run.
        needs: What it uses of the contracts.
    """

    name: str
    settings: tuple[str, ...]
    needs: str

    @property
    def shipped(self) -> bool:
        """Whether it is part of the library."""
        return "/" in self.name

    @property
    def file(self) -> Path:
        """The source file, which need not exist."""
        if self.shipped:
            return ROOT / "minigpt" / "components" / f"{self.name}.py"
        found = (folder / f"{self.name}.py" for folder in FOLDERS)
        return next((file for file in found if file.is_file()), FOLDERS[1] / f"{self.name}.py")


@dataclass(frozen=True)
class Mechanism:
    """One of the 25.

    Attributes:
        name: What a reader looks for.
        papers: arXiv numbers.
        parts: Its files.
    """

    name: str
    papers: str
    parts: tuple[Part, ...]


def chosen(key: str, name: str, needs: str, *more: str) -> Part:
    """A part that one key of the experiment chooses; a shipped one is named with its family."""
    return Part(name, (f"{key}={name.rpartition('/')[2]}", *more), needs)


_WRAPPED = "BlockSpec; a state for each call"
_MIXTURE = (
    'data={"name": "mixture", "datasets": [{"name": "text", "paths": ["{text}"]}, {"name": "text", "paths": ["{other}"]}], '
    '"weights": [3.0, 1.0]}'
)
_BPE = 'tokenizer={"name": "bpe", "vocab_size": 512}'

MECHANISMS = (
    Mechanism("looped, universal", "1807.03819", (chosen("model.block", "looped", _WRAPPED),)),
    Mechanism(
        "random depth", "2502.05171", (chosen("model.block", "random_depth", f"{_WRAPPED}; random numbers in training"),)
    ),
    Mechanism(
        "multi-token prediction",
        "2404.19737, 2412.19437",
        (
            Part(
                "objective/multi_token",
                ('model.objective={"name": "multi_token", "style": "sequential"}',),
                "`layer.block`; `prediction.embed`, `to_logits`; weights of an objective",
            ),
        ),
    ),
    Mechanism(
        "label smoothing, focal loss",
        "1512.00567, 1708.02002",
        (
            Part("objective/next_token", ("model.objective.label_smoothing=0.1",), "objective: logits, targets, mean"),
            chosen("model.objective", "focal", "objective: logits, targets, mean"),
        ),
    ),
    Mechanism(
        "mixture of depths",
        "2404.02258",
        (chosen("model.block", "mixture_of_depths", "BlockSpec; segments as visibility; `after_step`"),),
    ),
    Mechanism(
        "keys and values across layers (CLA, YOCO)",
        "2405.12981, 2405.05254",
        (chosen("model.attention", "cross_layer", "`ctx.shared`; `dims.occurrence`; a state in some layers"),),
    ),
    Mechanism(
        "Transformer-XL memory",
        "1901.02860",
        (chosen("training.batching", "transformer_xl", "batching: `Batch.memory`"),),
    ),
    Mechanism(
        "PaTH",
        "2505.16381",
        (chosen("model.attention", "path_attention", "attention; a state of its keys", "model.position=none"),),
    ),
    Mechanism("Engram", "2601.07372", (chosen("model.ffn", "engram", "FeedForwardSpec; `ctx.tokens`; a state of ids"),)),
    Mechanism("PEER", "2407.04153", (chosen("model.ffn", "peer", "ffn"),)),
    Mechanism(
        "DenseFormer, attention residuals",
        "2402.02622, 2603.15031",
        (
            chosen("model.block", "dense_former", "BlockSpec; `ctx.outputs`"),
            chosen("model.block", "attention_residuals", "block; `ctx.shared`"),
        ),
    ),
    Mechanism(
        "TTT-Linear",
        "2407.04620",
        (chosen("model.attention", "ttt_linear", "attention; an own state", "model.position=none"),),
    ),
    Mechanism(
        "Canon layers",
        "2512.17351",
        (chosen("model.attention", "canon", "AttentionSpec; FeedForwardSpec; a shipped convolution", "model.ffn=canon"),),
    ),
    Mechanism(
        "KAN, xIELU", "2404.19756, 2411.13010", (chosen("model.ffn", "kan", "ffn"), chosen("model.ffn", "xielu", "ffn"))
    ),
    Mechanism(
        "unigram tokenizer, sampled while training",
        "1804.10959, 1808.06226",
        (
            Part(
                "unigram",
                ('tokenizer={"name": "unigram", "vocab_size": 400}', "training.batching=unigram_sampling"),
                "tokenizer; batching: `source.tokenizer`, a mask",
            ),
        ),
    ),
    Mechanism(
        "factorised table, mixture of softmaxes",
        "1909.11942, 1711.03953",
        (
            chosen("model.embedding", "embedding/factorised", "embedding"),
            chosen("model.embedding", "embedding/mixture_of_softmaxes", "embedding: `logits`"),
        ),
    ),
    Mechanism(
        "stochastic depth, LayerDrop",
        "1603.09382, 1909.11556",
        (chosen("model.block", "layer_drop", "BlockSpec; random numbers in training"),),
    ),
    Mechanism(
        "averages of weights (EMA, LAWA)",
        "2209.14981",
        (
            Part("optimizer/ema", ('training.optimizer={"name": "ema", "decay": 0.9}',), "OptimizerSpec; `eval`, `train`"),
            Part(
                "optimizer/lawa",
                ('training.optimizer={"name": "lawa", "k": 3, "every": 5}',),
                "OptimizerSpec; `eval`, `train`",
            ),
        ),
    ),
    Mechanism(
        "muP, rates by layer",
        "2203.03466, 1801.06146",
        (
            chosen("model.init", "init/mup", "init: `draw`, `factors`; the coordinate check"),
            chosen("model.init", "layer_decay", "InitSpec; `factors`; `NamedParameter.layer`"),
        ),
    ),
    Mechanism(
        "growing context and batch",
        "2108.06084, 2005.14165",
        (
            Part(
                "batching/growing",
                ('training.batching={"name": "growing", "context": 0.25, "batch": 0.5}',),
                "batching: `draw.progress`, `shape`",
            ),
        ),
    ),
    Mechanism(
        "mixture of corpora, mapped files",
        "2302.13971",
        (
            Part("mixture", (_MIXTURE,), "a list of DatasetSpec; `documents`; `notes`"),
            Part(
                "mapped_ids",
                (
                    'data={"name": "mapped_ids", "path": "{ids}", "length": 64, "vocab_size": 256, "alphabet": ""}',
                    "tokenizer=byte",
                ),
                "dataset: `Sequences`; `Splits.alphabet`",
            ),
        ),
    ),
    Mechanism("hourglass", "2110.13711", (chosen("model.block", "hourglass", f"{_WRAPPED}; an own state"),)),
    Mechanism(
        "fill in the middle, prefix rows",
        "2207.14255, 1910.10683",
        (
            chosen("training.batching", "fill_in_the_middle", "batching: `source.tokenizer`; `keeps_order`"),
            chosen("training.batching", "prefix_rows", "batching: a mask"),
        ),
    ),
    Mechanism(
        "distillation of logits",
        "1503.02531",
        (
            Part(
                "objective/distillation",
                ('model.objective={"name": "distillation", "run": "{run}"}',),
                "objective: a finished run as teacher",
            ),
        ),
    ),
    Mechanism(
        "mirostat, repetition penalty, unlikelihood",
        "2007.14966, 1909.05858, 1908.04319",
        (
            chosen("sampling.sampler", "sampler/mirostat", "sampler: a memory for each text"),
            chosen("sampling.sampler", "sampler/repetition_penalty", "SamplerSpec; `ids`"),
            chosen("model.objective", "unlikelihood", "objective: `prediction.tokens`; an auxiliary loss"),
        ),
    ),
)


def parts() -> Iterator[tuple[Mechanism, Part]]:
    """All files, in order."""
    return ((mechanism, part) for mechanism in MECHANISMS for part in mechanism.parts)
