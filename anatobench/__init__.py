"""AnatoBench: CT diagnosis with anatomical supervision, in PyTorch and in JAX, proven equal and measured."""

__version__ = "0.2.0"
