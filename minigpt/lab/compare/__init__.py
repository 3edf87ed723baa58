"""Is a variant better than the base? Matched budgets, paired seeds, an interval and a verdict."""
