"""Measured claims: each script runs this package and Model Garden on the same input and prints a ratio."""
