"""Keras layers the backbones and heads are made of."""
