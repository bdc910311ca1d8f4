"""Training on a CPU at a third of the time: the same networks with cheaper backward passes.

Three things cost most there and need not. PyTorch's backward of depthwise convolutions is up to fifty times
slower than the forward (strided or 5x5, bf16), although its data gradient is itself a depthwise convolution.
Batch norms of a pretrained backbone are read, written and differentiated although their statistics hardly
change; with fixed statistics a norm is a factor and a shift that the convolution can take along. And the
backward of ReLU6 is not vectorised. `make_frugal` swaps these modules in place; parameters, their names and
the function in evaluation stay the same, so a state dict goes into the plain network afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _DepthwiseConv(torch.autograd.Function):
    """Depthwise convolution whose data gradient runs as a forward convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            full = grad
            if ctx.stride > 1:
                full = torch.zeros_like(x)
                full[:, :, :: ctx.stride, :: ctx.stride] = grad
            dx = F.conv2d(full, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, len(weight))
        if ctx.needs_input_grad[1]:
            dw = _weight_gradient(grad, x, weight, ctx.stride)
        return dx, dw, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """In float32: bf16 has no fast kernel for it."""
    pad = [weight.shape[-1] // 2] * 2
    _, dw, _ = torch.ops.aten.convolution_backward(
        grad.float(), x.float(), weight.float(), None, [stride] * 2, pad, [1, 1], False, [0, 0], len(weight),
        [False, True, False],
    )  # fmt: skip
    out: Tensor = dw.to(weight.dtype)
    return out


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(0, 6)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        lower = torch.ops.aten.threshold_backward(grads[0], y, 0)
        out: Tensor = torch.ops.aten.threshold_backward(lower, 6 - y, 0)
        return out


class FrugalReLU6(nn.Module):
    """ReLU6 with a vectorised backward."""

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x.clamp(0, 6)
        out: Tensor = _ReLU6.apply(x)  # type: ignore[no-untyped-call]
        return out


class FrugalConv2d(nn.Conv2d):
    """A convolution that takes a norm of fixed statistics along, and knows a cheap depthwise backward."""

    norm_: tuple[nn.BatchNorm2d, ...] = ()  # in a tuple, so that it is no submodule and no state dict entry

    def forward(self, x: Tensor) -> Tensor:
        weight, shift = self.weight, self.bias
        if self.norm_:
            norm = self.norm_[0]
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator,arg-type]
            weight = weight * factor[:, None, None, None]
            shift = norm.bias - norm.running_mean * factor  # type: ignore[operator]
        if self.groups == 1 or not torch.is_grad_enabled():
            return F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        y: Tensor = _DepthwiseConv.apply(x, weight, self.stride[0])  # type: ignore[no-untyped-call]
        return y if shift is None else y + shift.to(y.dtype)[:, None, None]


class FoldedNorm(nn.BatchNorm2d):
    """Keeps a norm's parameters and statistics; the convolution before it applies them."""

    def forward(self, input: Tensor) -> Tensor:
        return input


def make_frugal(model: nn.Module, fixed_norms: Iterable[nn.Module] = ()) -> None:
    """Swap convolutions, ReLU6 and (below ``fixed_norms``) batch norms of a model in place.

    Args:
        model: any network of plain `nn.Conv2d`, `nn.BatchNorm2d` and `nn.ReLU6` modules; parameters stay the
            same objects.
        fixed_norms: parts whose norms keep their statistics. There every norm must follow its convolution in
            an `nn.Sequential`.
    """
    for part in fixed_norms:
        _fold_norms(part)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(parent, name, FrugalReLU6())
            elif type(child) is nn.Conv2d and child.groups > 1 and child.groups == child.in_channels:
                child.__class__ = FrugalConv2d


def _fold_norms(part: nn.Module) -> None:
    for parent in list(part.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.children())
        for conv, norm in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                # other class, same object: parameters keep their names and an optimiser its references
                conv.__class__ = FrugalConv2d
                conv.norm_ = (norm,)  # type: ignore[assignment]
                norm.__class__ = FoldedNorm
