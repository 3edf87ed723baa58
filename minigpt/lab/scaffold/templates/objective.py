"""my_part: the objective, what training minimises.

It receives a `Prediction`: tokens, targets and mask [batch, time], the logits of the
next token, the hidden vectors that they were computed from, the last layer's context,
and the model's own embedding and output map. It returns the loss, one number, which is
recorded as train_loss. Terms that are appended to `ctx.losses` are minimised too and
recorded as auxiliary_loss. Validation does not use it: that is always the cross-entropy
of the next token. It may have further weights and layers; `layer` has the parts of
the model's last layer. Keyword-only arguments are its JSON parameters: annotate each
one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- the loss is one finite number, in fp32 or wider, also for large logits;
- targets that do not count change nothing, and a batch's loss is the mean of its
  rows' losses (`prediction.mean`);
- nothing that it receives is changed, so validation stays as it is;
- training on it lowers the cross-entropy, and each of its weights gets a gradient;
- equal seeds give equal losses and every keyword argument changes something.

Edit first: the lines after `log_p`.
"""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Layer, Objective, Prediction
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("objective", "my_part")
class MyPart(Objective):
    """Cross-entropy, and a reward for uncertain predictions: - strength H(p).

    A confidence penalty (Pereyra et al. 2017, arXiv:1701.06548).

    Args:
        strength: Weight of the entropy H(p) of the predicted distribution.
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        strength: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ):
        super().__init__()
        self.strength = strength

    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        log_p = upcast(prediction.logits).log_softmax(-1)  # in fp32, also under bf16
        entropy = -(log_p.exp() * log_p).sum(-1)
        prediction.ctx.losses.append(-self.strength * prediction.mean(entropy))
        each = -log_p.gather(-1, prediction.targets[..., None])[..., 0]
        return prediction.mean(each)
