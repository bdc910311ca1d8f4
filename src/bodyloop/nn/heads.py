"""Heads: from a backbone's feature map to maps, presence, visibility, quality and error of every keypoint.

The map branch enlarges the features four times with two transposed convolutions and reads one map a keypoint
from it. `PlainHead` stops there (MaskPose, ViTPose). `ProbabilityHead` makes a map a probability over its
cells (temperature, sparsemax) and adds four side branches that see the whole window (ProbPose, PMPose).
`DoubleHead` has a second map branch for a larger window around the crop (ProbPose-DH). Side branches send no
gradients to the backbone. A head computes only the outputs it is asked for. Decoding to points is in `maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import torch
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.maps import sparsemax

TEMPERATURE = 0.5  # divides the logits; a constant of the published models, in training, too
WIDTH = 256  # channels of the transposed convolutions

SIDE_BRANCHES = {  # output: the published name of its layers
    "presence": "probability_layers",
    "visibility": "visibility_layers",
    "quality": "oks_layers",
    "error": "error_layers",
}


def _deconvolutions(dim: int) -> nn.Sequential:
    """(B, D, h, w) to (B, 256, 4h, 4w)."""
    layers: list[nn.Module] = []
    for channels in (dim, WIDTH):
        layers += [
            nn.ConvTranspose2d(channels, WIDTH, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _side_branch(dim: int, num_keypoints: int, last: nn.Module) -> nn.Sequential:
    """(B, D, 16, 12) to (B, K, 1, 1); the pooling leads 16 x 12 over 4 x 4 and 2 x 2 to one cell."""
    layers: list[nn.Module] = []
    for pool in ((4, 3), (2, 2), (2, 2)):
        layers += [
            nn.Conv2d(dim, dim, kernel_size=3, padding=1),
            nn.BatchNorm2d(dim),
            nn.MaxPool2d(pool, stride=pool),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(dim, num_keypoints, kernel_size=1), last)


class Head(nn.Module):
    """What all heads share: the first map branch, starting values, and the check of output names.

    Attributes:
        num_keypoints: K.
        available: names of the outputs this head can give.
    """

    available: tuple[str, ...] = ("logits", "maps")

    def __init__(self, dim: int, num_keypoints: int) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.deconv_layers = _deconvolutions(dim)
        self.final_layer = nn.Conv2d(WIDTH, num_keypoints, kernel_size=1)

    def reset_parameters(self) -> None:
        """Starting values of every head: convolutions normal with std 0.001, biases 0, norms 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def wanted(self, outputs: Collection[str] | None) -> Collection[str]:
        """The outputs to compute: those named, or all but "error", which nobody trained.

        Raises:
            ModelError: a name that this head does not have.
        """
        if outputs is None:
            return [name for name in self.available if name != "error"]
        for name in outputs:
            if name not in self.available:
                raise ModelError(
                    f"this network has no output {name!r}; it has {', '.join((*self.available, 'features'))}"
                )
        return outputs


class PlainHead(Head):
    """Heat maps without an activation (ViTPose, MaskPose): "maps" are the "logits", (B, K, 4h, 4w)."""

    def __init__(self, dim: int, num_keypoints: int) -> None:
        super().__init__(dim, num_keypoints)
        self.reset_parameters()

    def forward(self, features: Tensor, outputs: Collection[str] | None = None) -> dict[str, Tensor]:
        wanted = self.wanted(outputs)
        if not wanted:
            return {}
        maps = self.final_layer(self.deconv_layers(features))
        return dict.fromkeys((name for name in self.available if name in wanted), maps)


class SimpleHead(PlainHead):
    """Heat maps from bilinear upsampling and one 3x3 convolution (ViTPose's "simple" decoder): (B, K, 4h, 4w)."""

    def __init__(self, dim: int, num_keypoints: int) -> None:
        super().__init__(dim, num_keypoints)
        self.deconv_layers = nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=4.0, mode="bilinear"))
        self.final_layer = nn.Conv2d(dim, num_keypoints, kernel_size=3, padding=1)
        self.reset_parameters()


class ProbabilityHead(Head):
    """Probability maps and four side branches (ProbPose, PMPose).

    Outputs: "logits" and "maps" (B, K, 4h, 4w), every map sums to 1; "presence", "visibility", "quality" in
    [0, 1] and "error" >= 0, each (B, K). "error" is untrained in all published models: only on request.

    Attributes:
        temperature: () or (K,), divides the logits; calibration may change it (not part of the state dict).
        sparsemax: the function over the cells of a map; an exporter puts `maps.sparsemax_newton` here.
    """

    available: tuple[str, ...] = ("logits", "maps", "presence", "visibility", "quality", "error")
    temperature: Tensor

    def __init__(self, dim: int, num_keypoints: int) -> None:
        super().__init__(dim, num_keypoints)
        self._add_maps(dim)
        # on its own device also when the network is laid out on "meta": nothing loaded later would fill it
        self.register_buffer("temperature", torch.full((), TEMPERATURE, device="cpu"), persistent=False)
        self.sparsemax: Callable[[Tensor], Tensor] = sparsemax
        for name, layers in SIDE_BRANCHES.items():
            last = nn.ReLU() if name == "error" else nn.Sigmoid()
            self.add_module(layers, _side_branch(dim, num_keypoints, last))
        self.reset_parameters()

    def _add_maps(self, dim: int) -> None:
        """Place for further map branches: the state dict's order has them before the side branches."""

    def probability(self, logits: Tensor) -> Tensor:
        """Logits (B, K, h, w) to maps that sum to 1; in float32 also when the network runs in less."""
        scaled = logits.float().flatten(2) / self.temperature.float().reshape(-1, 1)
        return self.sparsemax(scaled).reshape(logits.shape)

    def map_outputs(self, features: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Those of "logits" and "maps" that are wanted."""
        if "maps" not in wanted and "logits" not in wanted:
            return {}
        logits = self.final_layer(self.deconv_layers(features))
        out = {"logits": logits} if "logits" in wanted else {}
        if "maps" in wanted:
            out["maps"] = self.probability(logits)
        return out

    def forward(self, features: Tensor, outputs: Collection[str] | None = None) -> dict[str, Tensor]:
        wanted = self.wanted(outputs)
        out = self.map_outputs(features, wanted)
        detached = features.detach()
        for name, layers in SIDE_BRANCHES.items():
            if name in wanted:
                out[name] = self.get_submodule(layers)(detached).flatten(1)
        return out


class DoubleHead(ProbabilityHead):
    """Two map branches and the side branches (ProbPose-DH).

    "maps" (inner) cover the crop's window, "maps_outer" a larger one around the same centre, both
    (B, K, 4h, 4w); "logits" and "logits_outer" likewise. The two are merged after decoding, not here.

    Args:
        activation: "sparsemax" (with the temperature) makes both maps probabilities, as in the paper and in
            our models; "sigmoid" is the per-cell activation of the class the authors left behind (parity).
    """

    available = ("logits", "maps", "logits_outer", "maps_outer", "presence", "visibility", "quality", "error")

    def __init__(
        self, dim: int, num_keypoints: int, activation: Literal["sparsemax", "sigmoid"] = "sparsemax"
    ) -> None:
        super().__init__(dim, num_keypoints)
        self.activation = activation

    def _add_maps(self, dim: int) -> None:
        # the empty place in the middle keeps the published indices
        self.second_head = nn.Sequential(
            _deconvolutions(dim), nn.Identity(), nn.Conv2d(WIDTH, self.num_keypoints, kernel_size=1)
        )

    def probability(self, logits: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return logits.float().sigmoid()
        return super().probability(logits)

    def map_outputs(self, features: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        out = super().map_outputs(features, wanted)
        if "maps_outer" in wanted or "logits_outer" in wanted:
            logits = self.second_head(features)
            if "logits_outer" in wanted:
                out["logits_outer"] = logits
            if "maps_outer" in wanted:
                out["maps_outer"] = self.probability(logits)
        return out
