"""Blocks: how norms, residuals and sub-layers make a layer."""
