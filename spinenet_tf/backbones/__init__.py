"""Backbones as data: specs, catalog, builder, cost."""
