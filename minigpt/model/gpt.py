"""The model: embed, blocks, head, with components chosen by name; training code is elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minigpt.contracts import (
    Block,
    Component,
    Context,
    Embedding,
    Init,
    ModelState,
    NamedParameter,
    Position,
    Prediction,
    ResidualLinear,
    Role,
    State,
    Teacher,
    substate,
)
from minigpt.errors import ExperimentError, PluginError, Problem
from minigpt.experiment import Experiment, ModelSection
from minigpt.kernels.fused import Dropout, upcast
from minigpt.model.combining import (
    refuse_across_segments,
    refuse_ignored_factor,
    refuse_ignored_hooks,
    refuse_positions_of_rows,
)
from minigpt.model.torch_state import NoValues, usual_torch_state
from minigpt.registry import Spec


class GPT(nn.Module):
    """A decoder-only language model built from components.

    Args:
        section: The `model` section of an experiment.
        vocab_size: Number V of token ids.

    Raises:
        ExperimentError: Components cannot be combined.
    """

    progress: Float[Tensor, ""]
    """Share of the training that is done; the trainer sets it before each update."""

    def __init__(self, section: ModelSection, vocab_size: int):
        super().__init__()
        self.dims = section.dims(vocab_size)
        self.init = section.init.build(self.dims)
        self.embedding = section.embedding.build(self.dims)
        self.dropout = Dropout(section.dropout)
        self.positions = nn.ModuleList()  # one for each different choice; the first is the model's
        self.position_of_layer: list[int] = []
        self.blocks = nn.ModuleList()
        chosen: list[Spec[Position]] = []
        kinds: list[Spec[Block]] = []
        self._position_index(section.position, chosen)
        for index in range(section.n_layers):
            layer = section.layer(index)
            self.position_of_layer.append(self._position_index(layer.position, chosen))
            self.blocks.append(layer.block.build(section.dims(vocab_size, index), layer))
            kinds.append(layer.block)
            mixers, position = self.blocks[index], self._position(self.position_of_layer[index])
            refuse_ignored_hooks(mixers, index, position, layer.position)
            refuse_ignored_factor(mixers, index, self.dims.head_dim, section.init, self.dims.score_factor)
        self.enters = [index == 0 or kinds[index] != kinds[index - 1] for index in range(len(kinds))]
        limits = [self._position(index).max_positions for index in range(len(self.positions))]
        self.max_positions = min((limit for limit in limits if limit is not None), default=None)
        needs_norm = self.blocks[-1].final_norm
        self.norm = section.norm.build(section.d_model) if needs_norm else nn.Identity()
        self.head = self.embedding.build_head()
        last = section.n_layers - 1
        self.objective = section.objective.build(section.dims(vocab_size, last), section.layer(last))
        # A trainer puts in its place what really opens runs; measurements need the shapes only.
        self.open_run: Callable[[str], Teacher] = functools.partial(_stand_in, vocab_size)
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        initialise(self, self.init)
        self.after_step()

    def forward(
        self, tokens: Int[Tensor, "batch time"], state: ModelState | None = None
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits for the token after each input token. With a state (`new_state`) it continues from there."""
        return self.logits(self.hidden(tokens, state)[0])

    def hidden(
        self,
        tokens: Int[Tensor, "batch time"],
        state: ModelState | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
        places: Int[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time d_model"], Context]:
        """The input of the output map, and the last layer's context, with the auxiliary losses of the components.

        `places` are positions for `Position.embed`; None for those that follow from the state.
        """
        start = 0 if state is None else state.length
        end = start + tokens.shape[1]
        if self.max_positions is not None and end > self.max_positions:
            raise ValueError(f"position {end - 1} is too large: the model's positions end at {self.max_positions - 1}")
        if segments is not None:
            refuse_across_segments(self)
        if places is not None:
            refuse_positions_of_rows(self.positions)
        positions = torch.arange(start, end, device=tokens.device)
        first = Context(positions, self._position(0), tokens, segments=segments, progress=self.progress)
        x = self.embedding(tokens, first, substate(state, "embedding"))
        x = self.dropout(self._position(0).embed(x, positions if places is None else places))
        first.outputs.append(x)
        # One context for each position component; their lists and `shared` are the same objects.
        contexts = [first, *(replace(first, position=self._position(index)) for index in range(1, len(self.positions)))]
        stream = x  # in the form of the current block; x is the plain stream
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if self.enters[index]:
                stream = block.enter(x)
            ctx = contexts[self.position_of_layer[index]]
            stream = block(stream, ctx, substate(state, str(index)))
            x = block.leave(stream)
            first.outputs.append(x)
        if state is not None:
            state.length += tokens.shape[1]
        return self.norm(x), contexts[self.position_of_layer[-1]]

    def logits(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time vocab"]:
        """The output map, from the final norm's output to logits."""
        factor = self.init.logit_factor
        return self.embedding.logits(x if factor == 1 else x * factor, self.head)

    def loss(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int[Tensor, "batch all"] | None = None,
        memory: Int[Tensor, "batch earlier"] | None = None,
        positions: Int[Tensor, "batch all"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """What training minimises: the objective's loss, and the sum of auxiliary losses, in fp32 or wider.

        Args:
            tokens: Input ids.
            targets: The ids to predict.
            mask: Which targets count; None for all.
            segments: A token attends only to tokens with the same number; None for no such limit. With `memory`, they begin
                with those of the earlier tokens, and so do `positions`.
            memory: Earlier tokens, which are read first and without gradients (Transformer-XL: arXiv:1901.02860).
            positions: For `Position.embed`; None for the places in the row.

        Raises:
            PluginError: An auxiliary loss is not a single number.
        """
        earlier = 0 if memory is None else memory.shape[1]
        (segments_before, segments), (before, positions) = (_cut(each, earlier) for each in (segments, positions))
        state = None if memory is None else self._read(memory, tokens.shape[1], segments_before, before)
        x, ctx = self.hidden(tokens, state, segments, positions)
        prediction = Prediction(
            tokens,
            targets,
            mask,
            x,
            self.logits(x),
            ctx,
            self._embedded,
            self.logits,
            remembers=memory is not None,
            open_run=self.open_run,
        )
        loss = self.objective(prediction)
        return loss, _sum(ctx.losses, loss.new_zeros(()))

    def cross_entropy(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the next token in nats, over counted targets: what validation measures."""
        each = self.target_losses(tokens, targets).flatten()
        return each.mean() if mask is None else (each * mask.flatten()).sum() / mask.sum().clamp(min=1)

    def target_losses(
        self, tokens: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time"]:
        """The cross-entropy of each target in nats, in fp32 or wider."""
        logits = upcast(self(tokens)).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)

    @torch.no_grad()
    def _read(self, memory: Int[Tensor, "batch earlier"], more: int, *parts: Tensor | None) -> ModelState:
        """The state after earlier tokens, with room for `more`; `parts` are their segments and places.

        Raises:
            ExperimentError: The model has no position for so many tokens.
        """
        length = memory.shape[1] + more
        if self.max_positions is not None and length > self.max_positions:
            text = f"earlier tokens and a batch are {length} together, but positions end at {self.max_positions - 1}"
            raise ExperimentError(
                [Problem(("training.batching",), f'{text}; choose another model.position, such as "rope"')]
            )
        state = self.new_state(len(memory), length, self.dtype)
        self.hidden(memory, state, *parts)
        return state

    def _embedded(
        self, tokens: Int[Tensor, "batch time"], segments: Int[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """The vectors of tokens at the beginning of a text, without position."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        ctx = Context(positions, self._position(0), tokens, segments=segments, progress=self.progress)
        x: Tensor = self.embedding(tokens, ctx)
        return x

    def new_state(
        self, batch: int, capacity: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> ModelState:
        """An empty state for decoding up to `capacity` tokens in `batch` sequences, on the model's device."""
        parts = {"embedding": self.embedding, **dict(self.blocks.named_children())}
        children: dict[str, State] = {}
        for name, part in parts.items():
            assert isinstance(part, Component)
            state = part.new_state(batch, capacity, device or self.device, dtype)
            if state is not None:
                children[name] = state
        return ModelState(children=children)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

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
        parts = [module for module in self.modules() if isinstance(module, Component)]
        head = () if self.head is None else self.head.parameters()
        roles: dict[int, Role] = {
            id(module.weight): "embedding" for module in self.modules() if isinstance(module, nn.Embedding)
        }
        roles |= {id(tensor): "head" for tensor in head if tensor.ndim > 1}
        roles |= {id(getattr(part, name)): "vector" for part in parts for name in part.elementwise}
        for part in parts:
            if isinstance(part, Embedding):
                roles |= {id(part.get_parameter(name)): role for name, role in part.roles.items()}
        for name, tensor in self.named_parameters():
            if tensor.requires_grad:
                role = roles.get(id(tensor), "matrix" if tensor.ndim >= 2 else "vector")
                layer = int(name.split(".")[1]) if name.startswith("blocks.") else None
                yield NamedParameter(name, tensor, role, layer)

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

    def after_step(self) -> None:
        """Let every component adjust its weights after an update."""
        after_step(self)

    def set_progress(self, progress: float) -> None:
        """Set which share of the training is done, and the dropout rates that depend on it."""
        self.progress.fill_(progress)
        for module in self._ramped():
            assert module.ramp is not None
            module.p = module.ramp.at(progress)

    @property
    def is_ramped(self) -> bool:
        """Whether dropout rates change while training."""
        return next(self._ramped(), None) is not None

    def _ramped(self) -> Iterator[Dropout]:
        return (module for module in self.modules() if isinstance(module, Dropout) and module.ramp is not None)


def _cut(each: Tensor | None, at: int) -> tuple[Tensor | None, Tensor | None]:
    """The first columns, and the others."""
    return (None, None) if each is None else (each[:, :at], each[:, at:])


def _stand_in(vocab_size: int, path: str) -> Teacher:
    """A teacher without knowledge."""
    return lambda tokens: torch.zeros(*tokens.shape, vocab_size, device=tokens.device)


def initialise(root: nn.Module, init: Init) -> None:
    """Draw a module's weights, then call each component's `init_weights`, parts before the components that contain them."""
    init.draw(root)
    for module in reversed(list(root.modules())):
        if isinstance(module, Component):
            module.matrix_std, module.residual_std = init.matrix_std, init.residual_std
            module.residual_factor = init.residual_factor
            module.init_weights()
        if isinstance(module, ResidualLinear):
            module.factor = init.residual_factor


def _sum(losses: Sequence[Tensor], zero: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The sum of auxiliary losses.

    Raises:
        PluginError: One of them is not a single number.
    """
    for each in losses:
        if each.ndim:
            raise PluginError(f"ctx.losses: an auxiliary loss has the shape {list(each.shape)}; append one number, its mean")
    return sum((upcast(each) for each in losses), zero)


@torch.no_grad()
def after_step(root: nn.Module) -> None:
    """Call `after_step` of every component."""
    for module in root.modules():
        if isinstance(module, Component):
            module.after_step()


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
    with torch.device("meta"), NoValues():
        return GPT(section, vocab_size)
