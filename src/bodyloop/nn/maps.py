"""Torch twins of the map functions: sparsemax, the two decoders, the average of a flip test.

The definitions are numpy and stand in the package's maps part; what is here runs on the network's device,
with gradients where training needs them, and inside an exported ONNX graph: standard operators only, no loop
that depends on the data, any batch size. Maps are (B, K, h, w), points (B, K, 2) in map px, x before y.
`sparsemax` is for training and eager inference, `sparsemax_newton` for graphs; both find the same threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bodyloop.errors import InputError

LARGEST_STEP = 1.0  # map px per axis: the maximum lies within its cell or the next
AVERAGED = ("maps", "maps_outer", "presence", "visibility", "quality", "error")
NEWTON_STEPS = 8  # agrees to 5e-7 on logits of pose networks; nearly flat logits want 10
MAX_STEPS = 64  # twice what float32 can need, see _threshold


# --- sparsemax ------------------------------------------------------------------------------------


def _newton_step(z: Tensor, tau: Tensor) -> Tensor:
    """One Newton step for sum(max(z - tau, 0)) = 1 over the last axis."""
    over = z - tau
    excess = over.relu().sum(-1, keepdim=True) - 1.0
    support = (over > 0).to(z.dtype).sum(-1, keepdim=True)
    return tau + excess / support.clamp(min=1.0)


def _single(z: Tensor) -> Tensor:
    """Half precision to float32: a sum over 3072 cells has no meaning in eight bits."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def _threshold(z: Tensor) -> Tensor:
    """Exact sparsemax threshold of rows (..., n) whose maximum is 0: (..., 1).

    The sum of max(z - tau, 0) is convex, falling and piecewise linear in tau, and at tau = -1 it is at least
    1: Newton's method from there climbs to the root without passing it and ends on the exact linear piece.
    Excess times support shrinks at least fourfold a step: rows of 3072 float32 cells need less than 25 steps.
    """
    tau = torch.full_like(z[..., :1], -1.0)
    for step in range(MAX_STEPS):
        previous, tau = tau, _newton_step(z, tau)
        # looking costs a wait for the device: do it seldom; below the resolution of the sum steps only jitter
        if step % 4 == 3 and not bool(((tau - previous) > 1e-7).any()):
            break
    return tau


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        z = z - z.amax(dim=-1, keepdim=True)
        p = (z - _threshold(z)).relu()
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        support = (p > 0).to(p.dtype)
        inside = grad[0] * support
        mean = inside.sum(-1, keepdim=True) / support.sum(-1, keepdim=True).clamp(min=1.0)
        return cast(Tensor, inside - mean * support)


def sparsemax(z: Tensor) -> Tensor:
    """Euclidean projection of the last axis onto the probability simplex: (..., n), every row sums to 1.

    Exact forward and backward: the gradient is g minus its mean over the support, 0 outside. Flat rows give
    1/n. Half precision is computed, and returned, in float32. Under ``torch.compile`` the fixed steps of
    `sparsemax_newton` run instead.
    Source: Martins & Astudillo 2016.
    """
    if torch.compiler.is_compiling():
        return sparsemax_newton(z, steps=12)
    return cast(Tensor, _Sparsemax.apply(_single(z)))  # type: ignore[no-untyped-call]


def sparsemax_newton(z: Tensor, steps: int = NEWTON_STEPS) -> Tensor:
    """`sparsemax` by a fixed number of Newton steps, without sorting, loops or choices: fit for export.

    The last step alone carries the gradient, which is then that of `sparsemax`.
    """
    z = _single(z)
    z = z - z.detach().amax(dim=-1, keepdim=True)
    fixed = z.detach()
    tau = torch.full_like(fixed[..., :1], -1.0)
    for _ in range(steps - 1):
        tau = _newton_step(fixed, tau)
    return (z - _newton_step(z, tau)).relu()


# --- decoding -------------------------------------------------------------------------------------


def _argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """First maximum in row-major order: integer x and y, each (B, K, 1)."""
    width = maps.shape[-1]
    index = maps.flatten(2).argmax(dim=-1, keepdim=True)
    return index % width, torch.div(index, width, rounding_mode="floor")


def _look_up(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values at integer (x, y), each (B, K, n); positions beyond the border read the border: (B, K, n)."""
    height, width = maps.shape[-2:]
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return maps.flatten(2).gather(2, index)


def _blurred(maps: Tensor, blur: tuple[Tensor, Tensor]) -> Tensor:
    """``rows @ map @ columns`` in float32, also inside an autocast: half precision would move the maximum."""
    if torch.is_autocast_enabled(maps.device.type):
        with torch.autocast(maps.device.type, enabled=False):
            return blur[0] @ maps @ blur[1]
    return blur[0] @ maps @ blur[1]


def oks_blur(variances: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The OKS kernels as matrices (K, h, h) and (K, w, w): ``rows @ map @ columns`` is the blurred map.

    Separable Gaussians exp(-d^2 / (2 s)) cut at ceil(3 s), summing to 1; beyond the border the map continues
    mirrored with the edge repeated, which is folded into the matrices.

    Args:
        variances: (K,) s of each keypoint's kernel, map px^2.
        size: (w, h) of the maps.
    """
    width, height = size
    return _blur_matrix(variances, height), _blur_matrix(variances, width).transpose(1, 2).contiguous()


def _blur_matrix(variances: Tensor, n: int) -> Tensor:
    s = variances.detach().double().reshape(-1, 1, 1)
    radius = torch.ceil(3.0 * s)
    to = torch.arange(n, device=s.device)[:, None]
    source = torch.arange(n, device=s.device)[None, :]
    total = torch.zeros(len(s), n, n, dtype=torch.float64, device=s.device)
    reach = math.ceil(float(radius.max()) / (2 * n)) if len(s) else 0
    for period in range(-reach, reach + 1):
        for image in (source, -1 - source):  # the cell itself and its mirror image
            d = (to - image - 2 * n * period).double()
            total += torch.exp(-d * d / (2.0 * s)) * (d.abs() <= radius)
    return (total / total.sum(-1, keepdim=True)).to(variances.dtype)


def decode_expected_oks(maps: Tensor, blur: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The location of largest expected OKS, with a parabola's sub-pixel step.

    Args:
        maps: (B, K, h, w).
        blur: `oks_blur` of the keypoints' variances.

    Returns: points (B, K, 2) map px (NaN for a map with NaN), and the raw map's value at that cell (B, K).
    Source: ProbPose (Purkrabek & Matas, CVPR 2025).
    """
    maps = maps.float()
    height, width = maps.shape[-2:]
    # blurring keeps constants, so what is taken away here is missed nowhere; and flat maps stay exactly flat,
    # so that their first cell wins
    blurred = _blurred(maps - maps.amin(dim=(2, 3), keepdim=True), blur)
    x, y = _argmax(blurred)
    around_x = _look_up(blurred, torch.cat([x - 1, x, x + 1], -1), torch.cat([y, y, y], -1))
    around_y = _look_up(blurred, torch.cat([x, x, x], -1), torch.cat([y - 1, y, y + 1], -1))
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    step = torch.cat([_parabola(around_x), _parabola(around_y)], dim=-1)
    points = torch.cat([x, y], dim=-1).float() + torch.where(inside, step, torch.zeros_like(step))
    known = torch.isfinite(_look_up(blurred, x, y))
    points = torch.where(known, points, torch.full_like(points, math.nan))
    return points, _look_up(maps, x, y).squeeze(-1)


def _parabola(values: Tensor) -> Tensor:
    """Offset (..., 1) of the vertex through three neighbours (..., 3)."""
    before, here, after = values[..., :1], values[..., 1:2], values[..., 2:]
    curvature = after + before - 2.0 * here
    curvature = torch.where(curvature == 0, torch.full_like(curvature, 1e-6), curvature)
    return -(after - before) / 2.0 / curvature


BLUR_SIGMA = 2.0  # what OpenCV takes for a kernel of 11 when none is given: 0.3 * ((11 - 1) / 2 - 1) + 0.8
BLUR_RADIUS = 5
LOG_FLOOR, LOG_CEILING = 0.001, 50.0
RIDGE = 1.1920929e-07  # added to the Hessian's diagonal


def dark_blur(size: tuple[int, int], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """DARK's Gaussian as matrices (h, h) and (w, w); beyond the border there are zeros."""
    kernel = torch.exp(-(torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1).double() ** 2) / (2.0 * BLUR_SIGMA**2))
    kernel = kernel / kernel.sum()
    out = []
    for n in (size[1], size[0]):
        d = torch.arange(n)[:, None] - torch.arange(n)[None, :] + BLUR_RADIUS
        inside = (d >= 0) & (d <= 2 * BLUR_RADIUS)
        matrix = torch.where(inside, kernel[d.clamp(0, 2 * BLUR_RADIUS)], torch.zeros(()).double())
        out.append(matrix.float().to(device))
    return out[0], out[1]


def decode_dark_udp(
    maps: Tensor, blur: tuple[Tensor, Tensor] | None = None, bound: float | None = LARGEST_STEP
) -> tuple[Tensor, Tensor]:
    """Arg max and DARK's second-order step on the log of the smoothed map.

    Args:
        maps: (B, K, h, w).
        blur: `dark_blur` of the maps' size; None: made here.
        bound: largest step per axis, map px; None leaves it free, as the published decoder does.

    Returns: points (B, K, 2) map px (NaN where the map has no positive cell), and the maximum (B, K).
    Source: Zhang et al. 2020 (DARK), Huang et al. 2020 (UDP).
    """
    maps = maps.float()
    blur = dark_blur((maps.shape[-1], maps.shape[-2]), maps.device) if blur is None else blur
    x, y = _argmax(maps)
    peak = maps.amax(dim=(2, 3))[..., None]
    smooth = _blurred(maps, blur)
    gain = peak / (smooth.amax(dim=(2, 3))[..., None] + 1e-12)
    xs = torch.cat([x, x + 1, x - 1, x, x, x + 1, x - 1], dim=-1)
    ys = torch.cat([y, y, y, y + 1, y - 1, y + 1, y - 1], dim=-1)
    near = (_look_up(smooth, xs, ys) * gain).clamp(LOG_FLOOR, LOG_CEILING).log()
    step = _dark_step(near)
    if bound is not None:
        step = step.clamp(-bound, bound)
    points = torch.cat([x, y], dim=-1).float() - step
    return torch.where(peak > 0, points, torch.full_like(points, math.nan)), peak.squeeze(-1)


def _dark_step(near: Tensor) -> Tensor:
    """H^-1 g from the logs (..., 7) at: here, right, left, below, above, right below, left above."""
    # double: where the map is nearly flat the determinant is a difference of nearly equal products
    wide = torch.float32 if near.device.type == "mps" else torch.float64  # Apple's GPU has no double
    here, right, left, below, above, right_below, left_above = near.to(wide).unbind(-1)
    dx, dy = (right - left) / 2.0, (below - above) / 2.0
    dxx = right - 2.0 * here + left + RIDGE
    dyy = below - 2.0 * here + above + RIDGE
    dxy = 0.5 * (right_below - right - below + 2.0 * here - left - above + left_above)
    determinant = dxx * dyy - dxy * dxy
    step = torch.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], dim=-1)
    regular = (determinant != 0)[..., None]
    safe = torch.where(regular, determinant[..., None], torch.ones_like(step))
    return torch.where(regular, step / safe, torch.zeros_like(step)).to(near.dtype)


class Decoder(nn.Module):
    """A decoder with its constants, to stand behind a network on its device or in its graph.

    Maps (B, K, h, w) to points (B, K, 2) in map px and values (B, K).

    Args:
        method: "expected_oks" or "dark_udp".
        map_size: (w, h).
        variances: (K,) of the OKS kernels, for "expected_oks".
        bound: largest sub-pixel step of "dark_udp", map px; None is the published behaviour.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        method: Literal["expected_oks", "dark_udp"],
        map_size: tuple[int, int],
        variances: Sequence[float] | None = None,
        bound: float | None = LARGEST_STEP,
    ) -> None:
        super().__init__()
        if method not in ("expected_oks", "dark_udp"):
            raise InputError(f"no decoder {method!r}; there are expected_oks, dark_udp")
        if method == "expected_oks" and variances is None:
            raise InputError("the expected_oks decoder needs the variances of the keypoints' OKS kernels")
        self.method = method
        self.bound = bound
        if method == "expected_oks":
            rows, columns = oks_blur(torch.tensor(variances, dtype=torch.float64), map_size)
        else:
            rows, columns = dark_blur(map_size)
        self.register_buffer("rows", rows.float(), persistent=False)
        self.register_buffer("columns", columns.float(), persistent=False)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        if self.method == "expected_oks":
            return decode_expected_oks(maps, (self.rows, self.columns))
        return decode_dark_udp(maps, (self.rows, self.columns), self.bound)


# --- flip test ------------------------------------------------------------------------------------


def flip_average(
    plain: Mapping[str, Tensor], mirrored: Mapping[str, Tensor], flip: Tensor
) -> dict[str, Tensor]:
    """Average the outputs of a crop with those of its mirror image (last axis of the images reversed).

    Maps of the mirrored pass are mirrored back, and keypoints change sides by ``flip``. Maps and side outputs
    are averaged; logits and features, of which an average means nothing, stay those of the plain pass.

    Args:
        plain, mirrored: outputs by name; (B, K, h, w) maps and (B, K) side outputs.
        flip: (K,) int64, for each keypoint the index of its mirror image.
    """
    out = dict(plain)
    for name in AVERAGED:
        if name in plain:
            other = mirrored[name].index_select(1, flip)
            if other.ndim == 4:
                other = other.flip(-1)
            out[name] = (plain[name] + other) * 0.5
    return out
