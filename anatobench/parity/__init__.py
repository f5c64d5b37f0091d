"""Proof that two frameworks compute the same: a ladder of comparisons, each rung standing on the ones below."""
