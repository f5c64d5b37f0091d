"""Which layers take their fast form by default, and by which measurement (anatobench/fast_forms.py names them all).

GPU figures: one H100 80GB, bf16, the full-size model on chest crops at the paper's batch size, head on, a training
step. CPU figures: two cores that others used too, float32, the tiny model on chest crops, batch 4, a training step;
medians of ratios to the plain form, steps in turns.
"""

from __future__ import annotations

PLAIN: frozenset[str] = frozenset()
"""No layer's fast form: what products of the Hessian take, since a fused kernel has no derivative of its derivative."""

DEFAULT_FORMS: dict[str, dict[str, str]] = {
    # segmentation 1.03 (r3d_18) and 0.99 (swin3d_t), batch_norm 0.98, attention 1.04, window_attention 1.41 times as
    # long: nothing gains. The kernels of `depthwise` are interpreted there, for tests alone.
    "cpu": {},
    "gpu": {
        "attention": "mvit_v2_s 127.5 to 99.2 ms, 16.8 to 9.3 GiB, compiled in 87 s in place of 221",
        "window_attention": "swin3d_t 72.0 to 47.4 ms, 18.0 to 9.2 GiB",
    },
    # Not on a GPU, until they are measured there:
    # batch_norm: by count it reads every map once for both statistics and once for both sums of the backward pass,
    # where the plain form's derivative takes two passes each; reductions were 11.4 of the 61.7 ms of r3d_18's kernels.
    # depthwise: Triton kernels that nobody has timed. What runs in their place was: the sum of taps with its kernel
    # gradient as 27 reductions, mvit_v2_s 99.2 to 87.4 ms.
    # segmentation: the head costs 0.6 % of r3d_18's step, so there is memory to gain (a gibibyte per array of a batch's
    # logits) but hardly time, and a loop of six rounds to lose.
}
"""By kind of device: the form's name, and the reason."""
