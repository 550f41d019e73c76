"""spinenet_tf."""
