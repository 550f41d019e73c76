"""Pictures: detections, architectures, curves."""
