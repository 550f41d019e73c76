"""What a network costs, step by step, from its spec: the parts behind `backbones.profile`."""
