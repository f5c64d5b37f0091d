"""Prepared cases: written once, read as crops and batches."""
