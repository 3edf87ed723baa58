"""Computations that mixers share: softmax attention, one recurrence, fused elementwise operations."""

from minigpt.kernels.attention import attend, attention_weights, new_cache, remember, visible

__all__ = ["attend", "attention_weights", "new_cache", "remember", "visible"]
