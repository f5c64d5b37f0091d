"""Which layers take their fast form by default, and by which measurement (anatobench/fast_forms.py names them all).

GPU figures: one H100, bf16, the full-size model on chest crops at the paper's batch size, training step. CPU figures:
two cores, float32, the tiny model on chest crops, batch 4, training step; every form alone against none.
"""

from __future__ import annotations

PLAIN: frozenset[str] = frozenset()
"""No layer's fast form. Products of the Hessian take it: a fused kernel has no derivative of its derivative."""

DEFAULT_FORMS: dict[str, dict[str, str]] = {
    "cpu": {},
    "gpu": {
        "attention": "mvit_v2_s 127.5 to 99.2 ms, 16.8 to 9.3 GiB, compiled in 87 s in place of 221",
        "window_attention": "swin3d_t 72.0 to 47.4 ms, 18.0 to 9.2 GiB",
    },
}
"""By kind of device: the form's name, and the reason."""
