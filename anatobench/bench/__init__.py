"""Measurements of the suite itself. Imports neither Grain nor anything heavy, so it runs wherever a framework does."""
