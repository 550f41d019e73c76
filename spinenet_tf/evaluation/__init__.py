"""Metrics of record."""
