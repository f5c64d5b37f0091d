"""Measurements of the suite. `step` imports neither Grain nor anything heavy: it runs wherever a framework does."""
