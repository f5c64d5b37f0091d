"""The list of backbones: one card each.

One file per backbone, named as the frameworks' files are, holds its frozen `Layout`, `LAYOUTS` by size (`full` is the
paper's, `tiny` is for CPU work), its operations, what else the frameworks share, and its `CARD`. How a framework builds
layers from the numbers, and how it initialises these, stays in its own file. docs/extending.md says how to add one.
"""

from __future__ import annotations

from typing import Any

from anatobench.backbones import mvit_v2_s, r3d_18, swin3d_t
from anatobench.backbones.card import BackboneCard
from anatobench.errors import UsageError

CARDS: dict[str, BackboneCard[Any]] = {card.name: card for card in (r3d_18.CARD, mvit_v2_s.CARD, swin3d_t.CARD)}
"""By name, in the order in which the suite goes through them."""


def card_of(model: str) -> BackboneCard[Any]:
    """Find the card of that name; `UsageError` if there is none."""
    if model not in CARDS:
        raise UsageError(f"model {model!r}: choose one of {', '.join(CARDS)}")
    return CARDS[model]
