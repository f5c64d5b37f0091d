"""Planting mistakes into torchvision's transformers, and climbing the ladder with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import torch_ref.engine as engine_module
from anatobench.engine import Engine
from anatobench.parity.climb import TOLERANCES
from anatobench.parity.inputs import parity_recipe
from anatobench.parity.ladder import Ladder
from torch_ref.models.diagnosis_model import DiagnosisModel

RECIPE = parity_recipe("float64", seed=0)
Plant = Callable[[pytest.MonkeyPatch], None]


def climb(reference: Engine, candidate: Engine, steps: int, backward: bool = False) -> list[str]:
    """Return the names of the rungs that are red; a lone pass is one in evaluation mode, unless `backward`."""
    ladder = Ladder(reference, candidate, steps, backward, 3, 0, TOLERANCES["float64"])
    return [rung.name.removeprefix("evaluation ") for rung in ladder.climb() if not rung.passed]


def in_every(kind: type[nn.Module], change: Callable[[Any], None]) -> Plant:
    """Return a change to every module of a kind, as soon as the model is built."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        original = engine_module._build_model

        def build(*arguments: Any) -> DiagnosisModel:
            model = original(*arguments)
            for module in model.modules():
                if isinstance(module, kind):
                    change(module)
            return model

        monkeypatch.setattr(engine_module, "_build_model", build)

    return plant


def setting(**values: Any) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        for name, value in values.items():
            assert hasattr(module, name)
            setattr(module, name, value)

    return change


def line_changed(module: Any, name: str, right: str, wrong: str) -> Plant:
    """Return a function or class of torchvision's with one piece of its source replaced."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        source = inspect.getsource(getattr(module, name))
        assert right in source
        scope = dict(vars(module))
        exec(source.replace(right, wrong), scope)
        monkeypatch.setattr(module, name, scope[name])

    return plant


def method_changed(kind: type[nn.Module], change: Callable[[Any], Any]) -> Plant:
    """Return another `forward`; `change` is given the right one."""
    return lambda monkeypatch: monkeypatch.setattr(kind, "forward", change(kind.forward))
