"""Pure tensor functions: anchors, boxes, matching, non-maximum suppression."""
