"""Layers that equal PyTorch's, where Flax's own differ (see each file)."""
