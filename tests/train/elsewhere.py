"""A pretended second device, for machines without one: mixing its tensors with those of the CPU is an error.

Its tensors are computed on the CPU but say that they are on ``cuda:0``. Like there, a number (a tensor without axes)
may come from the CPU, and indices may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")
BETWEEN = {Tensor.copy_, Tensor.__getitem__, Tensor.__setitem__, Tensor.__repr__}


class There(Tensor):
    """A tensor of the pretended device."""


def send(value: Tensor) -> Tensor:
    """A tensor on the pretended device."""
    return value.detach().clone().as_subclass(There).requires_grad_(value.requires_grad)


def _is_there(device: object) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type  # type: ignore[call-overload]


class Elsewhere(TorchFunctionMode):
    """While it is entered, tensors know where they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func == Tensor.device.__get__:  # another object at each access
            return DEVICE if isinstance(args[0], There) else CPU
        values = tree_flatten((args, given))[0]
        tensors = [v for v in values if isinstance(v, Tensor)]
        devices = [v for v in values if isinstance(v, torch.device)]
        if func is Tensor.to:
            return self._moved(args, given, devices)
        if func is torch._C._nn._parse_to:  # of Module.to: words, no tensors
            return func(*args, **given)
        there = [isinstance(t, There) for t in tensors if t.dim() or isinstance(t, There)]
        if any(there) and not all(there) and func not in BETWEEN:
            raise AssertionError(f"{func}: tensors of two devices")
        if isinstance(given.get("device"), str):
            devices.append(torch.device(given["device"]))
        made = func(*tree_map(_here, tuple(args)), **tree_map(_here, given))
        return made.as_subclass(There) if devices and _is_there(devices[0]) else made

    @staticmethod
    def _moved(args: Sequence[Any], given: Mapping[str, Any], devices: Sequence[torch.device]) -> Tensor:
        value, *rest = args
        like = next((a for a in rest if isinstance(a, Tensor)), None)
        named = [torch.device(a) for a in [*rest, given.get("device")] if isinstance(a, str)]
        goes = isinstance(value, There)
        if like is not None:
            goes = isinstance(like, There)
        elif devices or named:
            goes = _is_there([*devices, *named][0])
        plain = [a.as_subclass(Tensor) if isinstance(a, Tensor) else _here(a) for a in rest]
        moved: Tensor = value.as_subclass(Tensor).to(*plain, **tree_map(_here, dict(given)))
        return moved.as_subclass(There) if goes else moved


def _here(value: Any) -> Any:
    """Arguments as the CPU takes them."""
    if isinstance(value, torch.device):
        return CPU
    return "cpu" if isinstance(value, str) and value.startswith("cuda") else value
