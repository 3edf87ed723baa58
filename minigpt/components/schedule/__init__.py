"""Schedules: the learning rate over training."""
