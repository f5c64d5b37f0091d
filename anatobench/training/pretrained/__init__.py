"""Begin with torchvision's published video weights instead of drawn ones: which there are, where their files lie, and
what of them fits the changed models."""
