"""An experiment: everything that one JSON file may say, with its types, bounds, defaults and descriptions.

`reading.py` turns a file into an `Experiment`; here is only what one is.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

import minigpt.components  # noqa: F401 - the defaults below name shipped components
from minigpt.contracts import (
    AttentionSpec,
    BlockSpec,
    DatasetSpec,
    Dims,
    FeedForwardSpec,
    Layer,
    NormSpec,
    OptimizerSpec,
    PositionSpec,
    ScheduleSpec,
    TokenizerSpec,
)
from minigpt.errors import Problem
from minigpt.registry import Spec
from minigpt.registry.spec import locate, walk

_MAX_WIDTH, _MAX_DEPTH = 1 << 17, 1 << 10  # beyond any small GPT; a slip of the finger ends here and not in swap

Width = Annotated[int, Field(gt=0, le=_MAX_WIDTH)]
Depth = Annotated[int, Field(gt=0, le=_MAX_DEPTH)]
MAX_COUNT = 2**40
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Rate = Annotated[float, Field(ge=0, lt=1)]
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
    """A field whose default is given as it would stand in the JSON, and validated like it."""
    return Field(default=value, description=description)


class LayerSection(Section):
    """One entry of the layer pattern: what these layers choose otherwise than the model as a whole.

    What an entry does not mention stays the model's, parameter by parameter: a component that is named again, or only given
    parameters, keeps all others. One of another name replaces the model's whole.
    """

    attention: AttentionSpec | None = Field(default=None, description="Token mixer of these layers.")
    position: PositionSpec | None = Field(default=None, description="Positions of these layers (rotate and bias only).")
    norm: NormSpec | None = Field(default=None, description="Norms of these layers.")
    ffn: FeedForwardSpec | None = Field(default=None, description="Feed-forward of these layers.")
    block: BlockSpec | None = Field(default=None, description="Block of these layers.")


class ModelSection(Section):
    """The architecture. Its default is the documented model: 10,770,816 parameters with 65 characters."""

    path: ClassVar[str | None] = "model"

    d_model: Width = Field(default=384, description="Width of the residual stream.")
    n_layers: Depth = Field(default=6, description="Number of blocks.")
    n_heads: Width = Field(default=6, description="Number of query heads.")
    head_dim: Width | None = Field(default=None, description="Width of a head; null for d_model / n_heads.")
    block_size: Width = Field(default=256, description="Longest context, in tokens.")
    dropout: Rate = Field(default=0.2, description="Rate on embeddings and on each sub-layer's output.")
    tied_head: bool = Field(default=True, description="The output layer shares the token embedding's weights.")
    unit_embeddings: bool = Field(
        default=False,
        description="Rows of embedding and output layer are kept at length 1, and each logit has a trained scale (nGPT: "
        "arXiv:2410.01131); for the block ngpt.",
    )
    embedding_norm: NormSpec | None = Field(
        default=None, description="Norm on the token embeddings (BLOOM: arXiv:2211.05100); null for none."
    )
    embedding_scale: Annotated[float, Field(gt=0)] | Literal["sqrt"] = Field(
        default=1.0, description='Factor on the token embeddings; "sqrt" for sqrt(d_model) (Vaswani et al. 2017; Gemma).'
    )
    logit_softcap: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Logits are kept within +-logit_softcap by a tanh (Gemma 2: arXiv:2408.00118)."
    )
    z_loss: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Weight of the squared log-partition in the training loss (PaLM: arXiv:2204.02311: 1e-4)."
    )
    attention: AttentionSpec = _default("mha", "Token mixer.")
    position: PositionSpec = _default("learned", "How position enters.")
    norm: NormSpec = _default("layernorm", "Normalisation.")
    ffn: FeedForwardSpec = _default("mlp", "Feed-forward sub-layer.")
    block: BlockSpec = _default("pre_norm", "How norms and residuals are arranged.")
    layers: list[LayerSection] = Field(
        default=[],
        description="A pattern of choices that differ by layer, repeated over n_layers. An entry lies over the model's own "
        "choices: a component that it names again keeps the model-wide parameters that it does not mention (say null or the "
        "default to be rid of one), and another name replaces it whole. `minigpt show` prints what each layer ends up with.",
    )

    @model_validator(mode="after")
    def _sizes_go_together(self) -> ModelSection:
        if self.head_dim is None and self.d_model % self.n_heads:
            text = f"n_heads {self.n_heads} does not divide d_model {self.d_model}; change one of them, or set head_dim"
            raise PydanticCustomError("component", "{text}", {"problems": [Problem(("n_heads",), text)], "text": text})
        if len(self.layers) > self.n_layers:
            text = f"a pattern of {len(self.layers)} layers, and the model has {self.n_layers}: the rest would never be used"
            raise PydanticCustomError("component", "{text}", {"problems": [Problem(("layers",), text)], "text": text})
        return self

    def dims(self, vocab_size: int, layer: int = 0) -> Dims:
        """The sizes that components are built with."""
        mixers = [self._mixer(index) for index in range(layer + 1)]
        return Dims(
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

    def _mixer(self, index: int) -> str:
        own = self.layers[index % len(self.layers)].attention if self.layers else None
        return (own or self.attention).name

    def layer(self, index: int) -> tuple[Spec[Any], Layer]:
        """The block of layer `index`, and what it is made of."""
        own = self.layers[index % len(self.layers)] if self.layers else LayerSection()
        chosen = {family: getattr(own, family) or getattr(self, family) for family in LayerSection.model_fields}
        return chosen.pop("block"), Layer(**chosen)

    def never_used(self) -> list[str]:
        """The model-wide choices that every layer replaces; first position and last norm stay the model's."""
        families = ("attention", "ffn", "block") if self.layers else ()
        return [family for family in families if all(getattr(layer, family) for layer in self.layers)]


class TrainingSection(Section):
    """How the model is trained. The defaults are those of the documented result."""

    path: ClassVar[str | None] = "training"

    optimizer: OptimizerSpec = _default("adamw", "Update rule.")
    schedule: ScheduleSpec = _default("cosine", "Learning rate over training.")
    batch_size: Annotated[int, Field(gt=0, le=1 << 20)] = Field(default=64, description="Sequences in an update.")
    micro_batch_size: Annotated[int, Field(gt=0, le=1 << 20)] | None = Field(
        default=None,
        description="Sequences that go through the model at once; their gradients add up to the update's. null for about "
        "4,096 tokens on a CPU, which stay in its cache, and for all of them elsewhere.",
    )
    max_iters: Count = Field(default=5000, description="Updates.")
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="Largest norm of the gradient; null for no clipping."
    )
    non_finite: Literal["stop", "skip"] = Field(
        default="stop",
        description="What follows a loss or gradient that is not finite: stop ends the run as diverged, skip leaves that "
        "update out and counts it. Weights are not touched by it either way.",
    )
    eval_interval: Count = Field(default=250, description="Updates between evaluations on the whole validation split.")
    checkpoint_interval: Count | None = Field(
        default=None, description="Updates between checkpoints; null saves at each evaluation."
    )
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=5.0,
        description="Minutes after which a checkpoint is written whatever the number of updates, so that a slow model "
        "loses little; null saves by updates only.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto measures: bf16 where this machine is fast at it, else fp32."
    )
    compile: bool | Literal["auto"] = Field(
        default="auto", description="torch.compile; auto tries it where the run is long, and takes it where it is faster."
    )


class SamplingSection(Section):
    """How text is drawn from the model, for samples in training and as defaults of `generate`."""

    prompt: str = Field(default="", description="Where a sample starts; empty for the start of a line.")
    max_new_tokens: Annotated[int, Field(gt=0, le=1 << 20)] = Field(default=200, description="Length of a sample.")
    temperature: Annotated[float, Field(ge=0)] = Field(default=0.8, description="0 always takes the likeliest token.")
    top_k: Annotated[int, Field(gt=0)] | None = Field(default=None, description="Keep the k likeliest tokens.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Keep the likeliest tokens that hold this probability together (arXiv:1904.09751)."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Keep tokens at least this share as likely as the likeliest (arXiv:2407.01082)."
    )


_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Experiment(Section):
    """All that is needed to train a model and to train it again."""

    path: ClassVar[str | None] = ""

    file_keys: ClassVar[tuple[str, ...]] = ("$schema", "extends")
    """What a file may say beside the fields; reading deals with it."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(
        default="experiment", description="Names the run folder; the file's name where it is left out."
    )

    @field_validator("name")
    @classmethod
    def _is_a_folders_name_everywhere(cls, name: str) -> str:
        if name.split(".")[0].upper() in _DEVICES or name.endswith("."):
            text = f'found "{name}", which Windows cannot have as a folder; choose another'
            raise PydanticCustomError("component", "{text}", {"problems": [Problem((), text)], "text": text})
        return name

    description: str = Field(default="", description="What the experiment is about.")
    plugins: list[str] = Field(default=[], description="Plugin files to load, relative to this file. They are executed.")
    seed: Seed = Field(default=1337, description="Of weights, data order, dropout and samples.")
    data: DatasetSpec = _default("tinyshakespeare", "Corpus.")
    tokenizer: TokenizerSpec = _default("char", "Text to ids.")
    model: ModelSection = _default({}, "The architecture.")
    training: TrainingSection = _default({}, "How it is trained.")
    sampling: SamplingSection = _default({}, "How text is drawn.")

    def to_json(self) -> dict[str, Any]:
        """The resolved experiment: every parameter of every component, ready to be read again."""
        return self.model_dump(mode="json")

    def specs(self) -> list[Spec[Any]]:
        """Every component that is used anywhere, nested ones included, each once."""
        unused = tuple(f"model.{family}" for family in self.model.never_used())
        unique: list[Spec[Any]] = []
        for path, spec in walk(self):
            if not path.startswith(unused) and spec not in unique:
                unique.append(spec)
        return unique
