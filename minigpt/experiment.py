"""An experiment: all keys that its JSON file may have, with types, bounds, defaults and descriptions.

`reading.py` reads a file into an `Experiment`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

import minigpt.components  # noqa: F401 - the defaults below name shipped components
from minigpt.contracts import (
    AttentionSpec,
    BatchingSpec,
    BlockSpec,
    DatasetSpec,
    Dims,
    EmbeddingSpec,
    FeedForwardSpec,
    InitSpec,
    Layer,
    NormSpec,
    ObjectiveSpec,
    OptimizerSpec,
    PositionSpec,
    Rate,
    SamplerSpec,
    ScheduleSpec,
    TokenizerSpec,
)
from minigpt.errors import Problem
from minigpt.registry import Spec
from minigpt.registry.problems import quote
from minigpt.registry.spec import as_json, locate, walk

_MAX_WIDTH, _MAX_DEPTH = 1 << 17, 1 << 10  # beyond any small GPT, so that a typing error does not fill the memory

Width = Annotated[int, Field(gt=0, le=_MAX_WIDTH)]
Depth = Annotated[int, Field(gt=0, le=_MAX_DEPTH)]
MAX_COUNT = 2**40
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A part of the experiment file: strict types, no unknown keys, no NaN."""

    path: ClassVar[str | None] = None
    """Where it stands in the experiment; None where only the section around it knows."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="after")
    def _locate(self) -> Self:
        for key in type(self).model_fields if self.path is not None else ():
            value = getattr(self, key)
            if not isinstance(value, Section) or value.path is None:
                locate(value, f"{self.path}.{key}".lstrip("."))
        return self


def _default(value: Any, description: str) -> Any:
    """A field with a default that is a JSON value and is validated like one."""
    return Field(default=value, description=description)


class LayerSection(Section):
    """One entry of the layer pattern: the components of these layers that differ from the model's.

    An entry is merged with the model's choices, parameter by parameter. A component with the same name, or given only by
    parameters, keeps all other parameters. A component with another name replaces the model's.
    """

    attention: AttentionSpec | None = Field(default=None, description="Token mixer of these layers.")
    position: PositionSpec | None = Field(default=None, description="Positions of these layers (rotate and bias only).")
    norm: NormSpec | None = Field(default=None, description="Norms of these layers.")
    ffn: FeedForwardSpec | None = Field(default=None, description="Feed-forward of these layers.")
    block: BlockSpec | None = Field(default=None, description="Block of these layers.")


class ModelSection(Section):
    """The architecture. The default is the documented model: 10,770,816 parameters with 65 characters."""

    path: ClassVar[str | None] = "model"

    d_model: Width = Field(default=384, description="Width of the residual stream.")
    n_layers: Depth = Field(default=6, description="Number of blocks.")
    n_heads: Width = Field(default=6, description="Number of query heads.")
    head_dim: Width | None = Field(default=None, description="Width of a head; null for d_model / n_heads.")
    block_size: Width = Field(default=256, description="Longest context, in tokens.")
    dropout: Rate = Field(
        default=0.2,
        description="Rate on embeddings and on each sub-layer's output; an object with start and end for one that changes "
        "while training.",
    )
    embedding: EmbeddingSpec = _default("table", "Tokens in, logits out.")
    init: InitSpec = _default("gpt2", "How weights begin, and what follows from the model's size.")
    objective: ObjectiveSpec = _default(
        "next_token", "What training minimises. Validation is always the cross-entropy of the next token."
    )
    attention: AttentionSpec = _default("mha", "Token mixer.")
    position: PositionSpec = _default("learned", "How position enters.")
    norm: NormSpec = _default("layernorm", "Normalisation.")
    ffn: FeedForwardSpec = _default("mlp", "Feed-forward sub-layer.")
    block: BlockSpec = _default("pre_norm", "How norms and residuals are arranged.")
    layers: list[LayerSection] = Field(
        default=[],
        description="A pattern of choices that differ by layer, repeated over n_layers. An entry is merged with the model's "
        "choices. A component with the same name keeps the model-wide parameters that the entry does not set (set null or "
        "the default to undo one). A component with another name replaces it. `minigpt show` prints each layer's result.",
    )

    @model_validator(mode="after")
    def _sizes_go_together(self) -> ModelSection:
        if self.head_dim is None and self.d_model % self.n_heads:
            text = f"n_heads {self.n_heads} does not divide d_model {self.d_model}; change one of them, or set head_dim"
            raise PydanticCustomError("component", "{text}", {"problems": [Problem(("n_heads",), text)], "text": text})
        if len(self.layers) > self.n_layers:
            text = f"a pattern of {len(self.layers)} layers, but the model has {self.n_layers}: the rest would never be used"
            raise PydanticCustomError("component", "{text}", {"problems": [Problem(("layers",), text)], "text": text})
        return self

    def dims(self, vocab_size: int, layer: int = 0) -> Dims:
        """The sizes that components of layer `layer` are built with."""
        mixers = [self._mixer(index) for index in range(layer + 1)]
        dims = Dims(
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            head_dim=self.head_dim or self.d_model // self.n_heads,
            block_size=self.block_size,
            vocab_size=vocab_size,
            dropout=self.dropout,
            layer=layer,
            occurrence=mixers[:-1].count(mixers[-1]),
        )
        return replace(dims, score_factor=self.init.build(dims).score_factor)

    def _mixer(self, index: int) -> str:
        own = self.layers[index % len(self.layers)].attention if self.layers else None
        return (own or self.attention).name

    def layers_as_chosen(self) -> list[dict[str, Any]]:
        """The layer pattern as JSON, without the choices and parameters that a layer shares with the model."""
        return [
            {
                family: _chosen(spec, getattr(self, family))
                for family in LayerSection.model_fields
                if (spec := getattr(layer, family)) is not None and spec != getattr(self, family)
            }
            for layer in self.layers
        ]

    def layer(self, index: int) -> Layer:
        """The block of layer `index`, and the components it is made of."""
        own = self.layers[index % len(self.layers)] if self.layers else LayerSection()
        chosen = {family: getattr(own, family) or getattr(self, family) for family in LayerSection.model_fields}
        return Layer(**chosen)

    def never_used(self) -> list[str]:
        """The model-wide choices that every layer replaces; first position and last norm stay the model's."""
        families = ("attention", "ffn", "block") if self.layers else ()
        return [family for family in families if all(getattr(layer, family) for layer in self.layers)]


def _chosen(own: Spec[Any], shared: Spec[Any]) -> dict[str, Any]:
    """A layer's component as JSON, without the parameters that it shares with the model's component of that name."""
    kept = shared.params if own.name == shared.name else {}
    params = {key: as_json(value) for key, value in own.params.items() if key not in kept or value != kept[key]}
    return {"name": own.name, **params}


class TrainingSection(Section):
    """How the model is trained. The defaults are those of the documented run."""

    path: ClassVar[str | None] = "training"

    batching: BatchingSpec = _default("windows", "Which tokens an update sees.")
    optimizer: OptimizerSpec = _default("adamw", "Update rule.")
    schedule: ScheduleSpec = _default("cosine", "Learning rate over training.")
    batch_size: Annotated[int, Field(gt=0, le=1 << 20)] = Field(default=64, description="Sequences in an update.")
    micro_batch_size: Annotated[int, Field(gt=0, le=1 << 20)] | None = Field(
        default=None,
        description="Sequences in one forward pass; the update adds up their gradients. null: about 4,096 tokens on a CPU, "
        "which fit into its cache, all sequences on other devices.",
    )
    max_iters: Count = Field(default=5000, description="Updates.")
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="Largest norm of the gradient; null for no clipping."
    )
    non_finite: Literal["stop", "skip"] = Field(
        default="stop",
        description="Action after a loss or gradient that is not finite: stop ends the run as diverged, skip leaves that "
        "update out and counts it. Neither changes the weights.",
    )
    eval_interval: Count = Field(default=250, description="Updates between evaluations on the whole validation split.")
    checkpoint_interval: Count | None = Field(
        default=None, description="Updates between checkpoints; null saves at each evaluation."
    )
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=5.0,
        description="Minutes after which a checkpoint is written, after any number of updates, so that a slow run repeats "
        "little if it is interrupted; null to save by updates only.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto measures: bf16 if it is fast on this machine, else fp32."
    )
    compile: bool | Literal["auto"] = Field(
        default="auto", description="torch.compile; auto tries it in long runs, and uses it if it is faster."
    )


class SamplingSection(Section):
    """How text is sampled from the model, for samples in training and as defaults of `generate`."""

    path: ClassVar[str | None] = "sampling"

    prompt: str = Field(default="", description="Start of a sample; empty for the start of a line.")
    max_new_tokens: Annotated[int, Field(gt=0, le=1 << 20)] = Field(default=200, description="Length of a sample.")
    sampler: SamplerSpec = _default("filtered", "How the next token is drawn.")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="A sample ends before the first of these texts that is complete in it. They are not shown, and not "
        "searched in the prompt.",
    )


_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


def refusal_of_name(name: str) -> str | None:
    """Why a text cannot be the name of a folder on every system; None if it can."""
    if not re.fullmatch(_NAME, name):
        return (
            f"found {quote(name)}; allowed: letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit"
        )
    if name.split(".")[0].upper() in _DEVICES or name.endswith("."):
        return f"found {quote(name)}, which cannot be a folder on Windows; choose another"
    return None


class Experiment(Section):
    """All settings that are needed to train a model, and to reproduce it."""

    path: ClassVar[str | None] = ""

    file_keys: ClassVar[tuple[str, ...]] = ("$schema", "extends")
    """Keys that a file may have in addition to the fields; reading a file resolves them."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(
        default="experiment", description="Name of the run folder; by default the file's name."
    )

    @field_validator("name")
    @classmethod
    def _is_a_folders_name_everywhere(cls, name: str) -> str:
        if refusal := refusal_of_name(name):
            raise PydanticCustomError("component", "{text}", {"problems": [Problem((), refusal)], "text": refusal})
        return name

    description: str = Field(default="", description="What the experiment is about.")
    plugins: list[str] = Field(default=[], description="Plugin files to load, relative to this file. They are executed.")
    seed: Seed = Field(default=1337, description="Seed of weights, data order, dropout and samples.")
    data: DatasetSpec = _default("tinyshakespeare", "Corpus.")
    tokenizer: TokenizerSpec = _default("char", "Text to ids.")
    model: ModelSection = _default({}, "The architecture.")
    training: TrainingSection = _default({}, "How it is trained.")
    sampling: SamplingSection = _default({}, "How text is sampled.")

    def to_json(self) -> dict[str, Any]:
        """The resolved experiment as JSON: every parameter of every component, of every layer too."""
        return self.model_dump(mode="json")

    def to_file_json(self) -> dict[str, Any]:
        """The resolved experiment as an experiment file.

        A layer contains only what differs from the model, so that a model-wide change reaches it as in the original file.
        """
        document = self.to_json()
        document["model"]["layers"] = self.model.layers_as_chosen()
        return document

    def specs(self) -> list[Spec[Any]]:
        """Every component that is used anywhere, nested ones included, each once."""
        unused = tuple(f"model.{family}" for family in self.model.never_used())
        unique: list[Spec[Any]] = []
        for path, spec in walk(self):
            if not path.startswith(unused) and spec not in unique:
                unique.append(spec)
        return unique
