"""Feed-forward sub-layers."""
