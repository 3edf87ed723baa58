"""Several softmaxes for each token."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Embedding, EmbeddingSpec, State, substate
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("embedding", "mixture_of_softmaxes")
class MixtureOfSoftmaxes(Embedding):
    """The next token's distribution is a mixture of softmaxes (Yang et al. 2017, arXiv:1711.03953).

    p = sum_k pi_k softmax(logits(tanh(W_k x))),  pi = softmax(W_pi x). One softmax of width D gives logits of rank D at
    most; a mixture does not have that limit. The logits of this embedding are log p.

    Args:
        n_softmaxes: Number of softmaxes.
        embedding: The embedding that gives the token vectors and each softmax's logits.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        n_softmaxes: Annotated[int, Field(ge=2)] = 4,
        embedding: EmbeddingSpec = "table",  # type: ignore[assignment]
    ):
        super().__init__()
        self.n_softmaxes = n_softmaxes
        self.inner = embedding.build(dims)
        self.latent = nn.Linear(dims.d_model, n_softmaxes * dims.d_model)
        self.prior = nn.Linear(dims.d_model, n_softmaxes)

    def forward(
        self, tokens: Int[Tensor, "batch time"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x: Tensor = self.inner(tokens, ctx, substate(state, "inner"))
        return x

    def build_head(self) -> nn.Module | None:
        return self.inner.build_head()

    def logits(self, x: Float[Tensor, "batch time d_model"], head: nn.Module | None) -> Float[Tensor, "batch time vocab"]:
        of_each = torch.tanh(self.latent(x)).view(*x.shape[:2], self.n_softmaxes, -1)
        logits = upcast(self.inner.logits(of_each.flatten(1, 2), head)).log_softmax(-1)
        prior = upcast(self.prior(x)).log_softmax(-1)
        mixed = logits.view(*x.shape[:2], self.n_softmaxes, -1) + prior[..., None]
        return mixed.logsumexp(2).to(x.dtype)
