"""Models: a backbone and its heads, forward only."""
