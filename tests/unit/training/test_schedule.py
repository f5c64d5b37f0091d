"""The learning rate of every step against torch's own schedulers."""

import warnings

import pytest

from anatobench.errors import UsageError
from anatobench.recipes import Recipe
from anatobench.training.schedule import learning_rate


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_equals_torch_linear_then_cosine(warmup: int) -> None:
    torch = pytest.importorskip("torch")
    recipe, total = Recipe(learning_rate=3e-4, warmup_steps=warmup), 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    schedulers = torch.optim.lr_scheduler
    cosine = schedulers.CosineAnnealingLR(optimizer, T_max=total - warmup)
    scheduler = cosine
    if warmup:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate
        linear = schedulers.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        scheduler = schedulers.SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    for step in range(total):
        assert learning_rate(recipe, step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=0)
        optimizer.step()
        with warnings.catch_warnings():  # SequentialLR calls its own members in a way that torch deprecates
            warnings.simplefilter("ignore", UserWarning)
            scheduler.step()


def test_starts_at_the_recipe_rate_and_never_reaches_zero() -> None:
    recipe = Recipe(learning_rate=1e-4)
    assert learning_rate(recipe, 0, 10) == 1e-4
    assert learning_rate(recipe, 5, 10) == pytest.approx(5e-5, rel=1e-15, abs=0)
    assert learning_rate(recipe, 9, 10) > 0


def test_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="warmup_steps=10"):
        learning_rate(Recipe(warmup_steps=10), 0, 10)


@pytest.mark.parametrize("step", [-1, 10])
def test_steps_outside_the_run_are_refused(step: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        learning_rate(Recipe(), step, 10)
