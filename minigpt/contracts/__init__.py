"""The contracts: what each family of components receives and returns.

Registration refuses a component that breaks its contract. `parts.py` has the parts of a layer, `embedding.py`, `init.py` and
`objective.py` the rest of a model, `state.py` the decoding state, `text.py` tokenizers and datasets, `batching.py`
batchings, `optimizing.py` optimizers and schedules, `sampling.py` samplers. Import all of them from here.

Axis names in the annotations: batch B, time T (new tokens), source S (cached plus new), d_model D, heads H (query
heads), kv_heads G, head_dim K, vocab V. A component imports neither the trainer nor the command line, and it uses another
family only through a `Spec`. Only datasets access the file system.
"""

from __future__ import annotations

from typing import Annotated

from minigpt.contracts.batching import Batch, Batching, BatchShape, Draw, Source, TokenRows, TokenStream
from minigpt.contracts.embedding import Embedding
from minigpt.contracts.init import Factors, Init
from minigpt.contracts.objective import Objective, Prediction, Teacher
from minigpt.contracts.optimizing import (
    AveragingOptimizer,
    MixedPrecisionOptimizer,
    NamedParameter,
    Optimizer,
    Role,
    Schedule,
)
from minigpt.contracts.parts import (
    INIT_STD,
    Attention,
    Block,
    Component,
    Context,
    Dims,
    FeedForward,
    InnerLinear,
    Layer,
    Norm,
    Position,
    ResidualLinear,
)
from minigpt.contracts.ramp import Amount, Ramp, Rate, value_at
from minigpt.contracts.sampling import Sampler
from minigpt.contracts.state import Cache, ModelState, State, substate
from minigpt.contracts.text import Dataset, Sequences, Splits, Tokenizer
from minigpt.registry import REGISTRY, Spec
from minigpt.registry.paths import RunPath, UserPath

__all__ = [
    "ATTENTION",
    "BATCHING",
    "BLOCK",
    "DATASET",
    "EMBEDDING",
    "FFN",
    "INIT",
    "INIT_STD",
    "NORM",
    "OBJECTIVE",
    "OPTIMIZER",
    "POSITION",
    "SAMPLER",
    "SCHEDULE",
    "TOKENIZER",
    "Amount",
    "Attention",
    "AttentionSpec",
    "AveragingOptimizer",
    "Batch",
    "BatchShape",
    "Batching",
    "BatchingSpec",
    "Block",
    "BlockSpec",
    "Cache",
    "Component",
    "Context",
    "Dataset",
    "DatasetSpec",
    "Dims",
    "Draw",
    "Embedding",
    "EmbeddingSpec",
    "Factors",
    "FeedForward",
    "FeedForwardSpec",
    "Init",
    "InitSpec",
    "InnerLinear",
    "Layer",
    "MixedPrecisionOptimizer",
    "ModelState",
    "NamedParameter",
    "Norm",
    "NormSpec",
    "Objective",
    "ObjectiveSpec",
    "Optimizer",
    "OptimizerSpec",
    "Position",
    "PositionSpec",
    "Prediction",
    "Ramp",
    "Rate",
    "ResidualLinear",
    "Role",
    "RunPath",
    "Sampler",
    "SamplerSpec",
    "Schedule",
    "ScheduleSpec",
    "Sequences",
    "Source",
    "Splits",
    "State",
    "Teacher",
    "TokenRows",
    "TokenStream",
    "Tokenizer",
    "TokenizerSpec",
    "UserPath",
    "substate",
    "value_at",
]

ATTENTION = REGISTRY.add_family("attention", Attention, ("dims",))
POSITION = REGISTRY.add_family("position", Position, ("dims",))
NORM = REGISTRY.add_family("norm", Norm, ("width",))
FFN = REGISTRY.add_family("ffn", FeedForward, ("dims",))
BLOCK = REGISTRY.add_family("block", Block, ("dims", "layer"))
EMBEDDING = REGISTRY.add_family("embedding", Embedding, ("dims",))
INIT = REGISTRY.add_family("init", Init, ("dims",))
OBJECTIVE = REGISTRY.add_family("objective", Objective, ("dims", "layer"))
TOKENIZER = REGISTRY.add_family("tokenizer", Tokenizer)
DATASET = REGISTRY.add_family("dataset", Dataset)
BATCHING = REGISTRY.add_family("batching", Batching)
OPTIMIZER = REGISTRY.add_family("optimizer", Optimizer)
SCHEDULE = REGISTRY.add_family("schedule", Schedule, ("max_iters",))
SAMPLER = REGISTRY.add_family("sampler", Sampler)

AttentionSpec = Annotated[Spec[Attention], ATTENTION]
PositionSpec = Annotated[Spec[Position], POSITION]
NormSpec = Annotated[Spec[Norm], NORM]
FeedForwardSpec = Annotated[Spec[FeedForward], FFN]
BlockSpec = Annotated[Spec[Block], BLOCK]
EmbeddingSpec = Annotated[Spec[Embedding], EMBEDDING]
InitSpec = Annotated[Spec[Init], INIT]
ObjectiveSpec = Annotated[Spec[Objective], OBJECTIVE]
TokenizerSpec = Annotated[Spec[Tokenizer], TOKENIZER]
DatasetSpec = Annotated[Spec[Dataset], DATASET]
BatchingSpec = Annotated[Spec[Batching], BATCHING]
OptimizerSpec = Annotated[Spec[Optimizer], OPTIMIZER]
ScheduleSpec = Annotated[Spec[Schedule], SCHEDULE]
SamplerSpec = Annotated[Spec[Sampler], SAMPLER]
