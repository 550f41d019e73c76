"""Weights of other code bases: Model Garden, the authors' TF1 code, the PyTorch port."""
