"""Compares minigpt with its peers: the same sizes, threads, batches and precision, alternating in one process, on the CPU.

    python benchmarks/peers.py train --precision bf16 --dropout 0.2 --nanogpt ../nanoGPT --json train.json
    python benchmarks/peers.py decode --tokens 1000 --json decode.json

Each peer is measured in pairs, minigpt and then the peer; a ratio is the median over the pairs. An update is forward,
backward, clipping and optimizer, on random ids. Decoding is greedy, batch 1, fp32, with each library's own generate.
benchmarks/README.md explains how to install the peers, and how they differ from the documented model.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from minigpt import MinigptError, build_model, load_experiment
from minigpt.data import Batch
from minigpt.experiment import Experiment, SamplingSection
from minigpt.lab.bench.machine import this_machine
from minigpt.model.decoding import sample_ids
from minigpt.training.loop import compute_gradients

REPOSITORY = Path(__file__).parents[1]
INSTALL = "pip install -r benchmarks/peers-requirements.txt"
CLONE = "git clone https://github.com/karpathy/nanoGPT, and pass its folder with --nanogpt"
LEARNING_RATE, BETAS, WEIGHT_DECAY, GRAD_CLIP = 3e-4, (0.9, 0.99), 0.1, 1.0  # as in experiments/baseline.json
PROMPT = 16
PACKAGED = ("transformers", "x-transformers", "litgpt")  # names on the package index
PEERS = {"train": ("nanogpt", *PACKAGED), "decode": ("window", "nanogpt", *PACKAGED)}


class NotComparedError(Exception):
    """A peer cannot be measured; the message has the reason and the next step."""


@dataclass(frozen=True)
class Size:
    """Sizes that all models share, and the peers' rates of dropout on sub-layers' outputs and on attention weights."""

    d_model: int
    n_layers: int
    n_heads: int
    block_size: int
    vocab_size: int
    dropout: float
    attention_dropout: float


# ------------------------------------------------------------------------------------------------- models


class Contender(ABC):
    """One model of one library."""

    model: nn.Module

    @abstractmethod
    def update(self, batch: Batch, precision: str) -> float:
        """One whole training step; returns the loss."""

    @abstractmethod
    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        """The new ids after a prompt of shape (1, time), each the most likely one."""

    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


class Minigpt(Contender):
    """minigpt's model, trained as by `minigpt run` and decoded as by `minigpt generate`."""

    read_ahead = True

    def __init__(self, experiment: Experiment, vocab_size: int):
        self.experiment = experiment
        self.model = build_model(experiment, vocab_size)
        self.optimizer = experiment.training.optimizer.build().build(list(self.model.named_roles()))

    def update(self, batch: Batch, precision: str) -> float:
        loss = compute_gradients(self.model, batch, self.experiment, precision)[0].item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.after_step()
        return loss

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        sampling = SamplingSection(temperature=0.0, max_new_tokens=n_tokens)
        drawn = sample_ids(self.model, prompt[0].tolist(), sampling, read_ahead=self.read_ahead)
        return [int(ids[0]) for ids in drawn]


class Window(Minigpt):
    """The same model without a state: it computes the whole window for each token, like nanoGPT's generate."""

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        self.model.eval()
        ids, block_size = prompt, self.model.dims.block_size
        with torch.no_grad():
            for _ in range(n_tokens):
                last = self.model.logits(self.model.hidden(ids[:, -block_size:])[0][:, -1:])
                ids = torch.cat((ids, last.argmax(-1)), 1)
        return ids[0, prompt.shape[1] :].tolist()


class Peer(Contender):
    """Another library's model, trained as in the libraries' own scripts: one batch, autocast, norm clipping, AdamW."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.optimizer = self.build_optimizer()

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )

    @abstractmethod
    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""

    def update(self, batch: Batch, precision: str) -> float:
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = self.loss(batch.tokens, batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


class Transformers(Peer):
    """GPT-2 of Hugging Face's transformers, with the library's choice of attention."""

    def __init__(self, size: Size):
        from transformers import GPT2Config, GPT2LMHeadModel, logging

        logging.set_verbosity_error()
        config = GPT2Config(
            vocab_size=size.vocab_size,
            n_positions=size.block_size,
            n_embd=size.d_model,
            n_layer=size.n_layers,
            n_head=size.n_heads,
            activation_function="gelu",
            resid_pdrop=size.dropout,
            embd_pdrop=size.dropout,
            attn_pdrop=size.attention_dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        super().__init__(GPT2LMHeadModel(config))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model(input_ids=tokens, labels=tokens, shift_labels=targets, use_cache=False).loss

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        self.model.eval()
        ids = self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, use_cache=True, max_new_tokens=n_tokens
        )
        return ids[0, prompt.shape[1] :].tolist()


class XTransformers(Peer):
    """x-transformers' decoder with its flash attention, and dropout at the same places as GPT-2."""

    def __init__(self, size: Size):
        from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

        decoder = Decoder(
            dim=size.d_model,
            depth=size.n_layers,
            heads=size.n_heads,
            attn_dim_head=size.d_model // size.n_heads,
            attn_flash=True,
            attn_dropout=size.attention_dropout,
            attn_sublayer_dropout=size.dropout,
            ff_sublayer_dropout=size.dropout,
        )
        net = TransformerWrapper(
            num_tokens=size.vocab_size,
            max_seq_len=size.block_size,
            attn_layers=decoder,
            emb_dropout=size.dropout,
            tie_embedding=True,
        )
        super().__init__(AutoregressiveWrapper(net))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model(tokens)  # the targets are the same ids, shifted by one

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        self.model.eval()
        return self.model.generate(prompt, n_tokens, temperature=0.0, cache_kv=True)[0].tolist()


class Litgpt(Peer):
    """litgpt's model in the form of GPT-NeoX: rotary positions, an untied head, no dropout."""

    def __init__(self, size: Size):
        if size.dropout or size.attention_dropout:
            raise NotComparedError("it has no dropout; compare with --dropout 0")
        from litgpt import GPT, Config

        config = Config(
            block_size=size.block_size,
            vocab_size=size.vocab_size,
            padded_vocab_size=size.vocab_size,
            n_layer=size.n_layers,
            n_embd=size.d_model,
            n_head=size.n_heads,
            intermediate_size=4 * size.d_model,
            rotary_percentage=1.0,
            parallel_residual=False,
        )
        super().__init__(GPT(config))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        from litgpt.utils import chunked_cross_entropy

        return chunked_cross_entropy(self.model(tokens), targets)

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        from litgpt.generate.base import generate

        self.model.eval()
        self.model.set_kv_cache(batch_size=1)
        length = prompt.shape[1] + n_tokens
        ids = generate(self.model, prompt[0], length, temperature=0.0, include_prompt=False)
        return ids.tolist()


class NanoGPT(Peer):
    """karpathy's nanoGPT from a clone, without biases as in its train.py, and with its own optimizer."""

    def __init__(self, size: Size, clone: Path | None):
        if clone is None:
            raise NotComparedError(CLONE)
        module = _module_of(clone / "model.py")
        config = module.GPTConfig(
            block_size=size.block_size,
            vocab_size=size.vocab_size,
            n_layer=size.n_layers,
            n_head=size.n_heads,
            n_embd=size.d_model,
            dropout=size.dropout,
            bias=False,
        )
        with contextlib.redirect_stdout(sys.stderr):  # it prints the number of its parameters
            model = module.GPT(config)
            for block in model.transformer.h:
                block.attn.dropout = size.attention_dropout
            super().__init__(model)

    def build_optimizer(self) -> torch.optim.Optimizer:
        return self.model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model(tokens, targets)[1]

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        self.model.eval()
        ids = self.model.generate(prompt, n_tokens, top_k=1)  # it always samples: top_k=1 leaves only the most likely
        return ids[0, prompt.shape[1] :].tolist()


def _module_of(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise NotComparedError(f"{file} does not exist; {CLONE}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := [name for name in ("GPT", "GPTConfig") if not hasattr(module, name)]:
        raise NotComparedError(f"{file} has no {' and no '.join(missing)}; {CLONE}")
    return module


# ------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Pairs:
    """Seconds of minigpt and of a peer, alternating, for the same number of tokens."""

    name: str
    parameters: int
    tokens: int
    minigpt: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        """Speed of minigpt as a multiple of the peer's, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.minigpt, self.peer, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return {
            "peer": self.name,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "seconds": self.peer,
            "minigpt_seconds": self.minigpt,
            "tokens_per_second": self.tokens / statistics.median(self.peer),
            "minigpt_tokens_per_second": self.tokens / statistics.median(self.minigpt),
            "ratio": statistics.median(self.ratios),
            "ratios": self.ratios,
        }


def compare(ours: Contender, name: str, peer: Contender, options: argparse.Namespace, console: Console) -> Pairs:
    """Measure a peer and minigpt in pairs; the first pair is a warm-up and does not count."""
    work = training(options) if options.what == "train" else decoding(options)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(1 + options.repeats):
        pair = [seconds(work, who, repeat) for who in (ours, peer)]
        console.print(
            f"{name}, {f'pair {repeat}' if repeat else 'warm-up'}: minigpt {pair[0]:.2f} s, {name} {pair[1]:.2f} s"
        )
        if repeat:
            times[0].append(pair[0])
            times[1].append(pair[1])
    tokens = options.batch * options.block_size if options.what == "train" else options.tokens
    return Pairs(name, peer.n_parameters(), tokens, *times)


def seconds(work: Callable[[Contender, int], None], who: Contender, repeat: int) -> float:
    start = time.perf_counter()
    work(who, repeat)
    return time.perf_counter() - start


def training(options: argparse.Namespace) -> Callable[[Contender, int], None]:
    """A function that makes one update on the batch of a number."""
    ids = torch.randint(options.vocab_size, (1 + options.repeats, options.batch, options.block_size + 1))
    batches = [Batch(each[:, :-1].contiguous(), each[:, 1:].contiguous()) for each in ids]

    def work(who: Contender, repeat: int) -> None:
        who.update(batches[repeat], options.precision)

    return work


def decoding(options: argparse.Namespace) -> Callable[[Contender, int], None]:
    """A function that decodes all tokens after the prompt of a number; in the warm-up only a few."""
    prompts = torch.randint(options.vocab_size, (1 + options.repeats, 1, PROMPT))

    def work(who: Contender, repeat: int) -> None:
        n_tokens = options.tokens if repeat else min(options.tokens, PROMPT)
        if (got := len(who.generate(prompts[repeat], n_tokens))) != n_tokens:
            raise RuntimeError(f"{type(who).__name__} decoded {got} of {n_tokens} tokens, so its time cannot be compared")

    return work


# ------------------------------------------------------------------------------------------------- reporting


def table_of(rows: list[Pairs], ours: Contender, title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption)
    table.add_column("peer", no_wrap=True)
    for column in ("parameters", "tokens/s", "range", "minigpt, tokens/s", "range", "minigpt / peer", "range"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [*_spread([row.tokens / each for each in row.peer]), *_spread([row.tokens / each for each in row.minigpt])]
        table.add_row(row.name, f"{row.parameters:,}", *cells, *_spread(row.ratios, ",.2f"))
    table.add_section()
    table.add_row("minigpt", f"{ours.n_parameters():,}")
    return table


def _spread(values: list[float], form: str = ",.0f") -> tuple[str, str]:
    return f"{statistics.median(values):{form}}", f"{min(values):{form}} - {max(values):{form}}"


def versions(rows: list[Pairs], clone: Path | None) -> dict[str, str]:
    """Versions of the measured peers; for nanoGPT, which has none, the SHA-256 of its model.py."""
    known = {row.name: importlib.metadata.version(row.name) for row in rows if row.name in PACKAGED}
    if clone is not None and any(row.name == "nanogpt" for row in rows):
        known["nanogpt model.py"] = hashlib.sha256((clone / "model.py").read_bytes()).hexdigest()
    return known


# ------------------------------------------------------------------------------------------------- options


def build_minigpt(kind: type[Minigpt], options: argparse.Namespace) -> Minigpt:
    """The documented model in the sizes of the options.

    Raises:
        MinigptError: The sizes contradict each other.
    """
    settings = {
        "model.d_model": options.d_model,
        "model.n_layers": options.n_layers,
        "model.n_heads": options.n_heads,
        "model.block_size": options.block_size,
        "model.dropout": options.dropout,
        "model.attention.dropout": options.dropout if options.attention_dropout == "all" else 0.0,
        "training.batch_size": options.batch,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return kind(load_experiment(REPOSITORY / "experiments" / "baseline.json", overrides=overrides), options.vocab_size)


def build_peer(name: str, options: argparse.Namespace) -> Contender:
    """A peer in the same sizes.

    Raises:
        NotComparedError: It is not installed, or does not support an option.
    """
    if name == "window":
        return build_minigpt(Window, options)
    size = Size(
        d_model=options.d_model,
        n_layers=options.n_layers,
        n_heads=options.n_heads,
        block_size=options.block_size,
        vocab_size=options.vocab_size,
        dropout=options.dropout,
        attention_dropout=0.0 if options.attention_dropout == "none" else options.dropout,
    )
    if name == "nanogpt":
        return NanoGPT(size, options.nanogpt)
    if options.what == "decode" and options.block_size < (needed := PROMPT + options.tokens):
        raise NotComparedError(f"its context ends at --block-size {options.block_size}; {needed} are needed")
    try:
        return {"transformers": Transformers, "x-transformers": XTransformers, "litgpt": Litgpt}[name](size)
    except ImportError as error:
        raise NotComparedError(f"{error}; {INSTALL}") from error


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    train = commands.add_parser("train", help="a whole update")
    decode = commands.add_parser("decode", help="greedy decoding, batch 1, fp32")
    for what, command in (("train", train), ("decode", decode)):
        names = ",".join(PEERS[what])
        command.add_argument("--peers", help=f"separated by commas; by default all installed peers of {names}")
        command.add_argument("--nanogpt", type=Path, metavar="DIR", help="a clone of github.com/karpathy/nanoGPT")
        command.add_argument("--repeats", type=positive, default=3, help="measured pairs, after one more pair as a warm-up")
        command.add_argument("--d-model", type=positive, default=384)
        command.add_argument("--n-layers", type=positive, default=6)
        command.add_argument("--n-heads", type=positive, default=6)
        command.add_argument("--vocab-size", type=positive, default=65)
        command.add_argument("--threads", type=positive, help="torch threads; by default all cores")
        command.add_argument("--json", type=Path, metavar="FILE", help="file to write all numbers to")
    train.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="bf16 is autocast")
    train.add_argument("--dropout", type=float, default=0.2)
    train.add_argument(
        "--attention-dropout",
        choices=["peers", "all", "none"],
        default="peers",
        help="which models drop attention weights; the documented model does not, the peers' own settings do",
    )
    train.add_argument("--batch", type=positive, default=64, help="sequences per update")
    train.add_argument("--block-size", type=positive, default=256)
    decode.add_argument("--tokens", type=positive, default=1000, help=f"drawn after a prompt of {PROMPT}")
    decode.add_argument("--one-by-one", action="store_true", help="minigpt without reading ahead")
    decode.add_argument("--block-size", type=positive, default=1024, help="the context; prompt and tokens fit into it")
    decode.set_defaults(precision="fp32", dropout=0.0, attention_dropout="none", batch=1)
    return parser, parser.parse_args()


def main() -> None:
    parser, options = parse()
    chosen = options.peers.split(",") if options.peers else list(PEERS[options.what])
    if unknown := [name for name in chosen if name not in PEERS[options.what]]:
        parser.error(f"not a peer in {options.what}: {', '.join(unknown)}; known: {', '.join(PEERS[options.what])}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        ours = build_minigpt(Minigpt, options)
        ours.read_ahead = not getattr(options, "one_by_one", False)
    except MinigptError as error:
        parser.error(str(error))
    console, peers, left_out = Console(stderr=True), {}, {}
    for name in chosen:
        try:
            peers[name] = build_peer(name, options)
        except NotComparedError as error:
            if options.peers:
                parser.error(f"{name}: {error}")
            left_out[name] = str(error)
            console.print(f"{name} is left out: {error}", markup=False, highlight=False, soft_wrap=True)
    rows = [compare(ours, name, peer, options, console) for name, peer in peers.items()]
    titles = {"train": "A whole update", "decode": "Greedy decoding, batch 1"}
    machine = this_machine(torch.device("cpu"))
    caption = f"{options.precision}, block size {options.block_size}"
    if options.what == "train":
        caption += f", batch {options.batch}, dropout {options.dropout} (of attention weights: {options.attention_dropout})"
    Console(width=None if sys.stdout.isatty() else 150).print(
        table_of(rows, ours, titles[options.what], f"{caption}\n{machine}")
    )
    if options.json:
        document = {
            "command": sys.argv,
            "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
            "versions": versions(rows, options.nanogpt),
            "machine": asdict(machine),
            "minigpt": {"parameters": ours.n_parameters()},
            "peers": [row.to_json() for row in rows],
            "left_out": left_out,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
