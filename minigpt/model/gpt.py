"""The model: embed, blocks, head, with components chosen by name; training code is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minigpt.contracts import (
    INIT_STD,
    Attention,
    Block,
    Component,
    Context,
    ModelState,
    NamedParameter,
    Position,
    ResidualLinear,
    State,
)
from minigpt.errors import ExperimentError, Problem, listing
from minigpt.experiment import Experiment, ModelSection
from minigpt.kernels.fused import Dropout, upcast
from minigpt.model.torch_state import usual_torch_state
from minigpt.registry import Spec


class GPT(nn.Module):
    """A decoder-only language model built from components.

    Args:
        section: The `model` section of an experiment.
        vocab_size: Number V of token ids.

    Raises:
        ExperimentError: Components cannot be combined.
    """

    def __init__(self, section: ModelSection, vocab_size: int):
        super().__init__()
        self.dims = section.dims(vocab_size)
        self.embedding = nn.Embedding(vocab_size, section.d_model)
        norm = section.embedding_norm
        self.embedding_norm = norm.build(section.d_model) if norm else None
        self.embedding_scale = math.sqrt(section.d_model) if section.embedding_scale == "sqrt" else section.embedding_scale
        self.dropout = Dropout(section.dropout)
        self.positions = nn.ModuleList()  # one for each different choice; the first is the model's
        self.position_of_layer: list[int] = []
        self.blocks = nn.ModuleList()
        chosen: list[Spec[Position]] = []
        kinds: list[Spec[Block]] = []
        self._position_index(section.position, chosen)
        for index in range(section.n_layers):
            block, layer = section.layer(index)
            self.position_of_layer.append(self._position_index(layer.position, chosen))
            self.blocks.append(block.build(section.dims(vocab_size, index), layer))
            kinds.append(block)
            self._check_hooks(index, layer.position)
        self.enters = [index == 0 or kinds[index] != kinds[index - 1] for index in range(len(kinds))]
        limits = [self._position(index).max_positions for index in range(len(self.positions))]
        self.max_positions = min((limit for limit in limits if limit is not None), default=None)
        needs_norm = self.blocks[-1].final_norm
        self.norm = section.norm.build(section.d_model) if needs_norm else nn.Identity()
        self.head = None if section.tied_head else nn.Linear(section.d_model, vocab_size, bias=False)
        # 1/sqrt(D) turns the product of a unit row and a vector of root mean square 1 into their cosine.
        scale = torch.full((vocab_size,), section.d_model**-0.5)
        self.logit_scale = nn.Parameter(scale) if section.unit_embeddings else None
        self.logit_softcap, self.z_loss = section.logit_softcap, section.z_loss
        init_weights(self, section.n_layers)
        self.after_step()

    def forward(
        self, tokens: Int[Tensor, "batch time"], state: ModelState | None = None
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits for the token after each input token. With a state (`new_state`) it continues from there."""
        return self.logits(self.hidden(tokens, state)[0])

    def hidden(
        self, tokens: Int[Tensor, "batch time"], state: ModelState | None = None
    ) -> tuple[Float[Tensor, "batch time d_model"], list[Tensor]]:
        """The input of the head, and the auxiliary losses of the components."""
        start = 0 if state is None else state.length
        end = start + tokens.shape[1]
        if self.max_positions is not None and end > self.max_positions:
            raise ValueError(f"position {end - 1} is too large: the model's positions end at {self.max_positions - 1}")
        positions = torch.arange(start, end, device=tokens.device)
        x = self.dropout(self._position(0).embed(self._embed(tokens), positions))
        first = Context(positions, self._position(0), tokens, outputs=[x])
        # One context for each position component; their lists and `shared` are the same objects.
        contexts = [first, *(replace(first, position=self._position(index)) for index in range(1, len(self.positions)))]
        stream = x  # in the form of the current block; x is the plain stream
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if self.enters[index]:
                stream = block.enter(x)
            ctx = contexts[self.position_of_layer[index]]
            stream = block(stream, ctx, None if state is None else state.children.get(str(index)))
            x = block.leave(stream)
            first.outputs.append(x)
        if state is not None:
            state.length += tokens.shape[1]
        return self.norm(x), first.losses

    def _embed(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d_model"]:
        x = self.embedding(tokens)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return x if self.embedding_scale == 1 else x * self.embedding_scale

    def logits(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time vocab"]:
        """The output layer, from the final norm's output to logits."""
        logits = F.linear(x, self.embedding.weight if self.head is None else self.head.weight)
        if self.logit_scale is not None:
            logits = logits * self.logit_scale
        return logits if self.logit_softcap is None else self.logit_softcap * torch.tanh(logits / self.logit_softcap)

    def loss(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy in nats over counted targets, and the sum of auxiliary losses, in fp32 or wider."""
        x, losses = self.hidden(tokens)
        logits = upcast(self.logits(x)).flatten(0, 1)
        each = F.cross_entropy(logits, targets.flatten(), reduction="none")
        if self.z_loss:
            losses = [*losses, self.z_loss * _mean(logits.logsumexp(-1).square(), mask)]
        return _mean(each, mask), sum((upcast(loss) for loss in losses), logits.new_zeros(()))

    def new_state(
        self, batch: int, capacity: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> ModelState:
        """An empty state for decoding up to `capacity` tokens in `batch` sequences, on the model's device."""
        device = device or self.embedding.weight.device
        children: dict[str, State] = {}
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            state = block.new_state(batch, capacity, device, dtype)
            if state is not None:
                children[str(index)] = state
        return ModelState(children=children)

    def state_bytes(self, capacity: int, dtype: torch.dtype = torch.float32) -> int:
        """The size in bytes of a state for `capacity` tokens of one sequence, computed without allocating it."""
        return self.new_state(1, capacity, dtype, torch.device("meta")).nbytes

    @property
    def state_bytes_token(self) -> int:
        """Bytes that a state grows by for each token beyond every window, in fp32."""
        capacity = 2**20
        return (self.state_bytes(2 * capacity) - self.state_bytes(capacity)) // capacity

    @property
    def decodes_without_end(self) -> bool:
        """Whether decoding can continue past block_size: positions have no limit and the state does not grow.

        True for recurrences and windows. False with a position that is added to the embeddings, because it is only trained
        up to block_size.
        """
        grows = self.state_bytes(2 * self.dims.block_size) != self.state_bytes(4 * self.dims.block_size)
        embeds = "embed" in self._position(0).hooks
        return not (grows or embeds or self.max_positions is not None)

    def named_roles(self) -> Iterator[NamedParameter]:
        """Every trainable tensor once, with its role and its layer."""
        embeddings = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        parts = [module for module in self.modules() if isinstance(module, Component)]
        elementwise = {id(getattr(part, name)) for part in parts for name in part.elementwise}
        for name, tensor in self.named_parameters():
            if not tensor.requires_grad:
                continue
            layer = int(name.split(".")[1]) if name.startswith("blocks.") else None
            if id(tensor) in embeddings:
                yield NamedParameter(name, tensor, "embedding", layer)
            elif self.head is not None and tensor is self.head.weight:
                yield NamedParameter(name, tensor, "head", layer)
            else:
                is_matrix = tensor.ndim >= 2 and id(tensor) not in elementwise
                yield NamedParameter(name, tensor, "matrix" if is_matrix else "vector", layer)

    def n_parameters(self) -> int:
        """Number of trainable values; shared tensors count once."""
        return sum(parameter.tensor.numel() for parameter in self.named_roles())

    def _position(self, index: int) -> Position:
        position = self.positions[index]
        assert isinstance(position, Position)
        return position

    def _position_index(self, spec: Spec[Position], chosen: list[Spec[Position]]) -> int:
        if spec not in chosen:
            position = spec.build(self.dims)
            if chosen and "embed" in position.hooks:
                text = f"{spec.name} is added to the embeddings: the whole model can choose it, but not a single layer"
                raise ExperimentError([Problem((spec.where,), text)])
            chosen.append(spec)
            self.positions.append(position)
        return chosen.index(spec)

    def _check_hooks(self, index: int, spec: Spec[Position]) -> None:
        """Raise an error if a mixer would silently ignore its layer's position."""
        needed = self._position(self.position_of_layer[index]).hooks - {"embed"}
        for module in _outermost_mixers(self.blocks[index]):
            if not needed <= module.uses:
                text = (
                    f"{type(module).__name__} (layer {index}) does not apply {listing(needed - module.uses)} of position "
                    f'"{spec.name}"; choose a position that it can use, such as "none"'
                )
                raise ExperimentError([Problem((spec.where,), text)])

    @torch.no_grad()
    def after_step(self) -> None:
        """Adjust the weights after an update: unit-length embeddings, and every component's `after_step`."""
        if self.logit_scale is not None:
            for table in [self.embedding.weight, *([] if self.head is None else [self.head.weight])]:
                table.copy_(F.normalize(table, dim=-1))
        after_step(self)


def init_weights(root: nn.Module, n_layers: int) -> None:
    """GPT-2's initialisation: normal with deviation 0.02, divided by sqrt(2 n_layers) for residual maps.

    Residual maps (`ResidualLinear`) write to the residual stream. Then each component's `init_weights` is called, parts
    before the components that contain them.
    """
    for module in root.modules():
        if isinstance(module, nn.Linear):
            residual = isinstance(module, ResidualLinear)
            nn.init.normal_(module.weight, std=INIT_STD / math.sqrt(2 * n_layers) if residual else INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
    for module in reversed(list(root.modules())):
        if isinstance(module, Component):
            module.init_weights()


@torch.no_grad()
def after_step(root: nn.Module) -> None:
    """Call `after_step` of every component."""
    for module in root.modules():
        if isinstance(module, Component):
            module.after_step()


def _mean(each: Float[Tensor, " targets"], mask: Bool[Tensor, "batch time"] | None) -> Float[Tensor, ""]:
    """Mean over the targets that the mask counts."""
    return each.mean() if mask is None else (each * mask.flatten()).sum() / mask.sum().clamp(min=1)


def _outermost_mixers(module: nn.Module) -> Iterator[Attention]:
    """Mixers inside `module` that are not inside another mixer."""
    for child in module.children():
        if isinstance(child, Attention):
            yield child
        else:
            yield from _outermost_mixers(child)


@usual_torch_state()
def build_model(experiment: Experiment, vocab_size: int) -> GPT:
    """The model of an experiment with its initial weights, in fp32 on the CPU; equal seeds give equal weights.

    The caller's random state and default floating-point type do not change.

    Args:
        experiment: From `load_experiment`.
        vocab_size: From the fitted tokenizer; `load_corpus(experiment).vocab_size`.
    """
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which imports torch's compiler (a second)
        torch.default_generator.manual_seed(experiment.seed)
        return GPT(experiment.model, vocab_size)


@usual_torch_state()
def build_model_on_meta(section: ModelSection, vocab_size: int = 256) -> GPT:
    """A model of shapes without memory or values, for checks and counts."""
    with torch.device("meta"), _NoValues():
        return GPT(section, vocab_size)


class _NoValues(TorchFunctionMode):
    """Skips initialisation, which has no values to set on meta and would import torch's compiler (a second)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
