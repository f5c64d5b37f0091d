"""The layers that have a fast form beside the plain one, and which of them a run takes.

The plain form is the mathematics to read and what the parity ladder climbs by default on a CPU. A fast form has the
same signature, the same parameters and the same results up to rounding; each framework's `forms.py` says where it is
the default and by which measurement, and a test compares the two, gradients included.
"""

from __future__ import annotations

from collections.abc import Collection

from anatobench.errors import UsageError

FAST_FORMS = {
    "segmentation": "upsampling and its loss by parts: the batch's full-size logits never exist at once",
    "segmentation_kernel": "the same as one kernel each way (PyTorch alone)",
    "batch_norm": "BatchNorm with the addition and ReLU behind it, each pass over a map made once",
    "depthwise": "MViT's 3x3x3 convolutions of single channels by a kernel of their own",
    "attention": "MViT's attention by the library's fused kernels",
    "window_attention": "Swin's attention by fused kernels: all windows' logits never exist (PyTorch: if compiled)",
    "window_kernel": "the same as kernels of its own (PyTorch alone)",
}
"""Names for `--set fast=`, and what each is."""
EVERY, NONE, BY_DEVICE = "true", "false", "auto"


def fast_forms(asked: str, default: Collection[str]) -> frozenset[str]:
    """Return what `Recipe.fast` asks for: `auto` is `default`, the device's; `true`, `false`, or names separated by
    commas.

    `UsageError` for anything else.
    """
    if asked == BY_DEVICE:
        return frozenset(default)
    if asked in (EVERY, NONE):
        return frozenset(FAST_FORMS if asked == EVERY else ())
    names = asked.split(",")
    if unknown := [name for name in names if name not in FAST_FORMS]:
        raise UsageError(
            f"fast={asked}: no fast form {', '.join(map(repr, unknown))}: "
            f"write auto, true, false, or some of {','.join(FAST_FORMS)}"
        )
    return frozenset(names)
