"""Positions: how token order enters the model."""
