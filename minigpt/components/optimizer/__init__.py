"""Recipes for torch optimizers."""
