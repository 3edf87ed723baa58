"""Embeddings: tokens in, logits out, and the tie between them."""
