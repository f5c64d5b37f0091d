"""Synthetic cohorts: bodies with organs and findings, rendered as CT and written as raw data of each format."""
