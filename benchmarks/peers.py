"""Compares the speed of minigpt and its peers on the CPU, alternating in one process.

    python benchmarks/peers.py train --precision bf16 --dropout 0.2 --nanogpt ../nanoGPT --json train.json
    python benchmarks/peers.py decode --tokens 1000 --json decode.json

All have the same sizes, threads, batches and precision. Each peer is measured in pairs, minigpt and then the peer; a ratio
is the median over the pairs. An update is forward, backward, clipping and optimizer, on random ids. Decoding is greedy,
batch 1, fp32, with each library's own generate. benchmarks/README.md explains how to install the peers, and how they differ
from the documented model.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from contenders import Contender, Litgpt, Minigpt, NanoGPT, NotComparedError, Size, Transformers, Window, XTransformers
from minigpt import MinigptError, load_experiment
from minigpt.lab.bench.machine import this_machine
from pairs import PROMPT, Pairs, compare, table_of

REPOSITORY = Path(__file__).parents[1]
INSTALL = "pip install -r benchmarks/peers-requirements.txt"
PACKAGED = ("transformers", "x-transformers", "litgpt")  # names on the package index
PEERS = {"train": ("nanogpt", *PACKAGED), "decode": ("window", "nanogpt", *PACKAGED)}


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


def versions(rows: list[Pairs], clone: Path | None) -> dict[str, str]:
    """Versions of the measured peers; for nanoGPT, which has none, the SHA-256 of its model.py."""
    known = {row.name: importlib.metadata.version(row.name) for row in rows if row.name in PACKAGED}
    if clone is not None and any(row.name == "nanogpt" for row in rows):
        known["nanogpt model.py"] = hashlib.sha256((clone / "model.py").read_bytes()).hexdigest()
    return known


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
