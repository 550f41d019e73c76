"""Prediction heads on a feature pyramid."""
