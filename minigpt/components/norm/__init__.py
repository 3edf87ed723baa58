"""Normalisation of the last axis."""
