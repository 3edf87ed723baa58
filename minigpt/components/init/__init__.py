"""Initialisations: how weights begin, and factors that follow from a model's size."""
