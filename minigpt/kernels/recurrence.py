"""A linear recurrence on a matrix: decay it, correct it along one direction, add an outer product.

    S_t = diag(d_t) S_(t-1) + w_t (r_t^T S_(t-1)) + k_t v_t^T        y_t = S_t^T q_t        S is [K, V] for each head

One recurrence for most mixers with a state of fixed size: linear attention (d = 1), retention and Mamba-2 (d one number per
head), GLA (d a vector), DeltaNet and Gated DeltaNet (r = k, w = -d beta k), RWKV-7 (the full form). Training cuts the
sequence into chunks. Inside a chunk the work is a few matrix products, and S is passed from chunk to chunk, so the cost is
linear in time (chunked form: Yang et al. 2023, arXiv:2312.06635; with a correction: arXiv:2406.06484, arXiv:2412.06464).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import State
from minigpt.kernels.fused import wide_dtype

CHUNK = 64
_LEAST_BY_HEAD = -30.0  # lower clamp of per-head log decay; a factor of 1e-13: less would only cost digits of running sums
_LARGEST_EXPONENT = 40.0  # per-channel decays are divided out of a chunk: exp(+-40) is far from the limits of fp32


def linear_recurrence(
    q: Float[Tensor, "batch heads time key"],
    k: Float[Tensor, "batch heads time key"],
    v: Float[Tensor, "batch heads time value"],
    before: Float[Tensor, "batch heads key value"] | None = None,
    *,
    log_decay: Float[Tensor, "batch heads time _"] | None = None,
    correction: tuple[Float[Tensor, "batch heads time key"], Float[Tensor, "batch heads time key"]] | None = None,
    least_log_decay: float = -10.0,
) -> tuple[Float[Tensor, "batch heads time value"], Float[Tensor, "batch heads key value"]]:
    """Run the recurrence over `time` tokens, in fp32 or wider for a model of any precision.

    Args:
        q: Reads the output from the matrix.
        k: The direction in which each token writes.
        v: The value that it writes.
        before: The initial matrix; None for zeros.
        log_decay: log d_t, at most 0: one number for each head, or for each channel of the key; None for no decay.
        correction: (r, w): the old matrix read along r_t is added along w_t; None for no correction.
        least_log_decay: Lower clamp of per-channel log decay; -10 is a factor of 5e-5 for each token. The nearer to 0, the
            larger the chunks can be. Per-head log decay is clamped at -30.

    Returns:
        y, and the matrix after the last token.
    """
    dtype = v.dtype
    with torch.autocast(q.device.type, enabled=False):
        precision = wide_dtype(torch.promote_types(q.dtype, v.dtype))
        q, k, v = (x.to(precision) for x in (q, k, v))
        if before is None:
            before = q.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
        decays = None if log_decay is None else log_decay.to(precision).clamp(min=_LEAST_BY_HEAD)
        chunk, middle = CHUNK, 0.0
        if decays is not None and decays.shape[-1] > 1:
            decays = decays.clamp(min=least_log_decay)
            chunk = max(1, min(CHUNK, int(2 * _LARGEST_EXPONENT / -least_log_decay)))
            middle = least_log_decay * chunk / 2
        pair = None if correction is None else (correction[0].to(precision), correction[1].to(precision))
        if q.shape[2] == 1:
            y, after = _step(q, k, v, before.to(precision), decays, pair)
        else:
            y, after = _in_chunks(q, k, v, before.to(precision), decays, pair, min(chunk, q.shape[2]), middle)
    return y.to(dtype), after


def _step(
    q: Tensor, k: Tensor, v: Tensor, before: Tensor, log_decay: Tensor | None, correction: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """One token, directly by the formula."""
    after = before if log_decay is None else before * log_decay.exp().mT
    if correction is not None:
        read, write = correction
        after = after + write.mT @ (read @ before)
    after = after + k.mT @ v
    return q @ after, after


def _in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: Tensor,
    log_decay: Tensor | None,
    correction: tuple[Tensor, Tensor] | None,
    chunk: int,
    middle: float,
) -> tuple[Tensor, Tensor]:
    time = q.shape[2]
    q, k, v = (_cut(x, chunk) for x in (q, k, v))  # [B, H, N, C, ...]; padding neither decays nor writes
    decay = _Decay(None if log_decay is None else _cut(log_decay, chunk), chunk, middle, q)
    keys_to_end = decay.to_end(k)
    if correction is None:
        added = keys_to_end.mT @ v
        starts, after = _carry_over_chunks(before, decay.whole, added.unbind(2))
        y = decay.since_start(q) @ starts + decay.products(q, k, inclusive=True) @ v
        return y.flatten(2, 3)[:, :, :time], after
    read, write = (_cut(x, chunk) for x in correction)
    # The old matrix read along r_t, for all t of a chunk: u = A_w u + A_k v + R S with A strictly lower. Solved for u:
    lower = -decay.products(read, write, inclusive=False)
    known = torch.cat((decay.products(read, k, inclusive=False) @ v, decay.since_start(read, exclusive=True)), -1)
    solved = torch.linalg.solve_triangular(lower, known, upper=False, unitriangular=True)
    own, of_start = solved.split((v.shape[-1], q.shape[-1]), -1)
    writes_to_end = decay.to_end(write)
    added = keys_to_end.mT @ v + writes_to_end.mT @ own
    carried = writes_to_end.mT @ of_start
    starts, after = _carry_over_chunks(before, decay.whole, added.unbind(2), carried.unbind(2))
    u = own + of_start @ starts
    y = decay.since_start(q) @ starts
    y = y + decay.products(q, k, inclusive=True) @ v + decay.products(q, write, inclusive=True) @ u
    return y.flatten(2, 3)[:, :, :time], after


def _cut(x: Tensor, chunk: int) -> Tensor:
    """Cut [B, H, T, ...] into chunks [B, H, N, C, ...], padded with zeros at the end."""
    missing = -x.shape[2] % chunk
    x = torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x.contiguous()
    return x.view(*x.shape[:2], -1, chunk, x.shape[-1])


def _carry_over_chunks(
    before: Tensor, whole: Tensor | None, added: tuple[Tensor, ...], carried: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """The matrix at the start of each chunk [B, H, N, K, V], and after the last: the only loop, over chunks."""
    starts, matrix = [], before
    for number, plus in enumerate(added):
        starts.append(matrix)
        kept = matrix if whole is None else matrix * whole[:, :, number]
        if carried is not None:
            kept = kept + carried[number] @ matrix
        matrix = kept + plus
    return torch.stack(starts, 2), matrix


class _Decay:
    """Decay between tokens of a chunk; `sums` are the running sums of its logarithm in each chunk."""

    def __init__(self, log_decay: Tensor | None, chunk: int, middle: float, like: Tensor):
        self.sums = None if log_decay is None else log_decay.cumsum(3)  # [B, H, N, C, 1 or K]
        self.earlier = None if self.sums is None or log_decay is None else self.sums - log_decay
        self.by_channel = self.sums is not None and self.sums.shape[-1] > 1
        self.ones = torch.ones(chunk, chunk, dtype=torch.bool, device=like.device).tril()
        self.strict = self.ones.tril(-1)
        self.middle = middle

    @property
    def whole(self) -> Tensor | None:
        """The decay over a whole chunk: [B, H, N, 1 or K, 1]."""
        return None if self.sums is None else self.sums[:, :, :, -1:].exp().mT

    def since_start(self, x: Tensor, *, exclusive: bool = False) -> Tensor:
        """Each x_t times the decay since the chunk's start, with or without its own token's decay."""
        sums = self.earlier if exclusive else self.sums
        return x if sums is None else x * sums.exp()

    def to_end(self, x: Tensor) -> Tensor:
        """Each x_t times the decay from the next token to the end of its chunk."""
        return x if self.sums is None else x * (self.sums[:, :, :, -1:] - self.sums).exp()

    def products(self, x: Tensor, y: Tensor, *, inclusive: bool) -> Tensor:
        """x_t . (decay from s to t) y_s for all s <= t of a chunk; or for s < t, with the decay up to t - 1."""
        mask, sums = (self.ones, self.sums) if inclusive else (self.strict, self.earlier)
        if sums is None or self.sums is None:
            return (x @ y.mT).masked_fill(~mask, 0.0)
        if self.by_channel:  # relative to a fixed middle: the rounding of earlier outputs must not depend on later tokens
            scores = (x * (sums - self.middle).exp()) @ (y * (self.middle - self.sums).exp()).mT
            return scores.masked_fill(~mask, 0.0)
        passed = (sums - self.sums.mT).masked_fill(~mask, -torch.inf)
        return (x @ y.mT) * passed.exp()


def new_matrix(batch: int, heads: int, key: int, value: int, device: torch.device, dtype: torch.dtype) -> State:
    """An empty state for `recur`, in fp32 at least because every token adds to it."""
    return State({"matrix": torch.zeros(batch, heads, key, value, device=device, dtype=wide_dtype(dtype))})


def recur(
    state: State | None,
    q: Float[Tensor, "batch heads time key"],
    k: Float[Tensor, "batch heads time key"],
    v: Float[Tensor, "batch heads time value"],
    *,
    log_decay: Float[Tensor, "batch heads time _"] | None = None,
    correction: tuple[Float[Tensor, "batch heads time key"], Float[Tensor, "batch heads time key"]] | None = None,
    least_log_decay: float = -10.0,
) -> Float[Tensor, "batch heads time value"]:
    """`linear_recurrence` from the state's matrix, which is updated; from zeros without a state."""
    before = None if state is None else state.tensors["matrix"]
    y, after = linear_recurrence(
        q, k, v, before, log_decay=log_decay, correction=correction, least_log_decay=least_log_decay
    )
    if state is not None:
        state.tensors["matrix"] = after
    return y
