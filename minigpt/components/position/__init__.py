"""Where position enters the model."""
