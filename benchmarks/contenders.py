"""The models that are compared: minigpt's and each peer's, with the same methods for an update and for decoding."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt import build_model
from minigpt.contracts import Batch
from minigpt.experiment import Experiment
from minigpt.model.decoding import sample_ids
from minigpt.registry import REGISTRY
from minigpt.training.loop import compute_gradients

CLONE = "git clone https://github.com/karpathy/nanoGPT, and pass its folder with --nanogpt"
LEARNING_RATE, BETAS, WEIGHT_DECAY, GRAD_CLIP = 3e-4, (0.9, 0.99), 0.1, 1.0  # as in experiments/baseline.json


class NotComparedError(Exception):
    """A peer cannot be measured; the message has the reason and the next step."""


@dataclass(frozen=True)
class Size:
    """Sizes that all models share, and the peers' dropout on sub-layers' outputs and attention weights."""

    d_model: int
    n_layers: int
    n_heads: int
    block_size: int
    vocab_size: int
    dropout: float
    attention_dropout: float


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
        greedy = REGISTRY.resolve("sampler", {"name": "filtered", "temperature": 0.0}).build()
        drawn = sample_ids(self.model, prompt[0].tolist(), greedy, n_tokens, read_ahead=self.read_ahead)
        return [int(ids[0]) for ids in drawn]


class Window(Minigpt):
    """The same model without a state: it computes the whole window per token, like nanoGPT's generate."""

    def generate(self, prompt: Tensor, n_tokens: int) -> list[int]:
        self.model.eval()
        ids, block_size = prompt, self.model.dims.block_size
        with torch.no_grad():
            for _ in range(n_tokens):
                last = self.model.logits(self.model.hidden(ids[:, -block_size:])[0][:, -1:])
                ids = torch.cat((ids, last.argmax(-1)), 1)
        return ids[0, prompt.shape[1] :].tolist()


class Peer(Contender):
    """Another library's model, trained as in its own script: one batch, autocast, clipping, AdamW."""

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
