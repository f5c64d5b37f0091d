"""Both frameworks find the same segmentation loss when some organs are left out or boundaries are distorted."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from tiny_store import write_store

import jax_impl.losses.segmentation as jax_losses
import torch_ref.losses.segmentation as torch_losses
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.store.batches import training_batches
from anatobench.store.mask_noise import MaskNoise
from anatobench.store.reader import Store

SETTINGS = {"supervising_organs": "heart,lung_lower_lobe_left", "boundary_distortion": 50.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store in which every second case has a mask, of lung_upper_lobe_left alone."""
    return write_store(tmp_path_factory.mktemp("store"))


def first_batch(store: Store, recipe: Recipe) -> Batch:
    with training_batches(store, 0, 8, mask_noise=MaskNoise.of(recipe, store.task)) as batches:
        return next(batches)


def losses_of_both(recipe: Recipe, seg_logits: np.ndarray, organs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = torch_losses.segmentation_loss(recipe, torch.tensor(seg_logits), torch.tensor(organs))
    with jax.enable_x64(True):
        return found.numpy(), np.asarray(
            jax.jit(jax_losses.segmentation_loss, static_argnums=0)(recipe, seg_logits, organs)
        )


@pytest.mark.parametrize("loss", ["ce", "dice", "ce_dice"])
def test_the_losses_of_an_organ_subset_are_equal_and_not_those_of_all_organs(store: Store, loss: str) -> None:
    plain = Recipe(segmentation_loss=loss)
    rng = np.random.default_rng(0)
    seg_logits = rng.normal(size=(8, store.task.segmentation_classes, *store.geometry.crop_size))
    everything = losses_of_both(plain, seg_logits, first_batch(store, plain)["organs"])[0]
    for settings in ({"supervising_organs": SETTINGS["supervising_organs"]}, {"boundary_distortion": 50.0}):
        recipe = replace(plain, **settings)
        batch = first_batch(store, recipe)
        of_torch, of_jax = losses_of_both(recipe, seg_logits, batch["organs"])
        np.testing.assert_allclose(of_jax, of_torch, rtol=1e-12)
        masked = np.array([store.cases[index].has_mask for index in batch.case_index])
        np.testing.assert_array_equal(of_torch == everything, ~masked)
        np.testing.assert_array_equal(of_torch[~masked], 0.0)
        if "supervising_organs" in settings:  # the mask holds none of these organs: all is background
            background = losses_of_both(plain, seg_logits, np.where(batch["organs"] == 255, 255, 0))[0]
            np.testing.assert_array_equal(of_torch, background)
