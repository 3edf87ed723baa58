"""The model: token embedding, blocks, head; and decoding, token by token."""

from minigpt.model.gpt import GPT, after_step, build_model, build_model_on_meta, initialise
from minigpt.model.optimizing import optimizer_of

__all__ = ["GPT", "after_step", "build_model", "build_model_on_meta", "initialise", "optimizer_of"]
