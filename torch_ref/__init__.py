"""The reference engine: torchvision's own video models in PyTorch, changed as the AutoSeg paper's Table 7 says.

`jax_impl` holds the same files with the same names, to be read side by side.
"""
