"""Blocks of the networks with forward and backward pass written out, for training on CUDA (`blocks.py`)."""
