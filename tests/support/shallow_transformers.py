"""Tiny transformers with the first of their blocks alone, for tests whose subject is how they are compiled."""

from dataclasses import replace

import pytest

from anatobench.backbones import mvit_v2_s, swin3d_t


def make_transformers_shallow(patch: pytest.MonkeyPatch) -> None:
    """Leave MViT a block that pools and projects its skip and one that does neither, and Swin a straight and a shifted
    block, a merging and a block behind it: they compile in half the time."""
    mvit, swin = mvit_v2_s.LAYOUTS["tiny"], swin3d_t.LAYOUTS["tiny"]
    first_two = replace(
        mvit,
        channels=mvit.channels[:3],
        heads=mvit.heads[:2],
        query_strides=mvit.query_strides[:2],
        key_value_strides=mvit.key_value_strides[:2],
    )
    patch.setitem(mvit_v2_s.LAYOUTS, "tiny", first_two)
    patch.setitem(swin3d_t.LAYOUTS, "tiny", replace(swin, depths=(2, 1), heads=swin.heads[:2]))
