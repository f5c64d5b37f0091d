"""The port of `torch_ref` to JAX and Flax NNX: the same files with the same names, to be read side by side."""
