"""Learning rate over training."""
