"""Models in use: detectors that take pictures as they are."""
