"""Which blocks and connections the public checkpoints have: those of SpineNet-49, in all of its sizes."""

from __future__ import annotations

from spinenet_tf.backbones.catalog import CATALOG

SPINENET = CATALOG["spinenet49"]
MOBILE = CATALOG["spinenet49_mobile"]
