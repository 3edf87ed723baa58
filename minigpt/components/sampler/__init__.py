"""Samplers: how the next token is drawn."""
