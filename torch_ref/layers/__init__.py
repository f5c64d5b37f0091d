"""Layers that torchvision's models have in a slow form, each as plain PyTorch and as a Triton kernel beside it."""
