"""From bytes to answers: a pose network with its preprocessing, calibration, flip average and decoder.

`PoseFunction` is what engines run and what an export writes: uint8 crops in, named outputs out. With it the
maps stay on the device (or inside the ONNX graph) unless somebody asks for them. Each output is also there
with the prefix ``flip_``: averaged over the crop and its mirror image (side outputs after their sigmoid, maps
after sparsemax), and decoded after averaging. Numbers come in as arguments; cards are read by others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.maps import Decoder, flip_average

SIDES = ("presence", "visibility", "quality")
FLIP = "flip_"


class PoseNetwork(Protocol):
    """What a network must offer: normalised crops (B, 3, H, W) in, the outputs named out."""

    size: tuple[int, int]
    map_size: tuple[int, int]

    def __call__(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]: ...


class Temperatures(nn.Module):
    """The numbers that calibration may change: () tensors by the name of the output they belong to."""

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def of(self, name: str) -> Tensor | None:
        """The temperature of an output, None where it has none."""
        return getattr(self, name, None)


class PoseFunction(nn.Module):
    """Crops (B, h, w, 3) uint8 to named outputs; only what is asked for is computed.

    ==================================  ============================================================
    "keypoints" "map_scores"            (B, K, 2) crop px and (B, K), decoded from the maps
    "maps" ("maps_outer")               (B, K, h', w') float32
    "logits" ("logits_outer")           (B, K, h', w') before temperature and sparsemax
    "presence" "visibility" "quality"   (B, K), after their temperatures
    "error" "features"                  as of the network
    "flip_..."                          keypoints, map_scores, maps and side outputs averaged over the flip
    ==================================  ============================================================

    Args:
        network: the pose network.
        available: the network's outputs to offer ("maps", "presence", ...).
        mean, std: of the channels in RGB order, on 0..255 values.
        flip: (K,) for each keypoint the index of its mirror image.
        method: "expected_oks" or "dark_udp".
        spreads: (K,) of the OKS kernels in map px^2, for "expected_oks".
        temperatures: by output ("maps", "presence", "visibility", "quality"); others stay as they are.
        bgr: the network was trained on blue, green, red.
        bound: largest sub-pixel step of "dark_udp", map px; None is the published behaviour.

    Raises:
        ModelError: a temperature of the maps for a network that has no such number.
    """

    inputs = ("crops",)

    def __init__(
        self,
        network: nn.Module,
        *,
        available: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        flip: Sequence[int],
        method: str,
        spreads: Sequence[float] | None = None,
        temperatures: Mapping[str, float] | None = None,
        bgr: bool = False,
        bound: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.size: tuple[int, int] = network.size  # type: ignore[assignment]
        self.map_size: tuple[int, int] = network.map_size  # type: ignore[assignment]
        self.available = tuple(available)
        self.bgr = bgr
        self.temperature = Temperatures(temperatures or {})
        self._share_temperature()
        self.decoder = Decoder(method, self.map_size, spreads, bound)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.tensor(tuple(mean)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("flip", torch.tensor([int(i) for i in flip]), persistent=False)
        grid = [(a - 1) / (b - 1) for a, b in zip(self.size, self.map_size, strict=True)]
        self.register_buffer("to_crop", torch.tensor(grid), persistent=False)
        # two maps are merged with the person's box, which only the caller knows
        decoded = () if "maps_outer" in self.available else ("keypoints", "map_scores")
        plain = (*decoded, *self.available)
        averaged = [n for n in plain if n not in ("logits", "logits_outer", "features")]
        self.outputs = (*plain, *(FLIP + n for n in averaged))

    mean: Tensor
    std: Tensor
    flip: Tensor
    to_crop: Tensor

    def _share_temperature(self) -> None:
        """The network divides by the very tensor that stands here under its public name."""
        value = self.temperature.of("maps")
        if value is None:
            return
        owners = [m for m in self.network.modules() if "temperature" in m._buffers]
        if not owners:
            raise ModelError(f"{type(self.network).__name__} has no temperature of its maps to set")
        for m in owners:
            m._buffers["temperature"] = value

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._share_temperature()  # moving to a device copies tensors one by one
        return self

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Black crops."""
        return {"crops": torch.zeros(batch, self.size[1], self.size[0], 3, dtype=torch.uint8)}

    def normalised(self, crops: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 RGB to (B, 3, h, w) float32 in the network's channel order."""
        images = (crops.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return images.flip(1) if self.bgr else images

    def forward(self, crops: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        images = self.normalised(crops)
        plain = [n for n in outputs if not n.startswith(FLIP)]
        averaged = [n.removeprefix(FLIP) for n in outputs if n.startswith(FLIP)]
        if not averaged:
            return self._answers(self._raw(images, plain), plain)
        both = self._raw(torch.cat([images, images.flip(-1)]), [*plain, *averaged])
        here = {k: v.chunk(2)[0] for k, v in both.items()}
        mirrored = {k: v.chunk(2)[1] for k, v in both.items()}
        mean = flip_average(here, mirrored, self.flip)
        out = self._answers(here, plain)
        return out | {FLIP + k: v for k, v in self._answers(mean, averaged).items()}

    def _raw(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What the network gives for these answers, with calibrated side outputs."""
        wanted = dict.fromkeys(n for n in names if n in self.available)
        if "keypoints" in names or "map_scores" in names:
            wanted["maps"] = None
        raw = self.network(images, list(wanted))
        return {n: self._calibrated(n, raw) for n in wanted}

    def _calibrated(self, name: str, raw: Mapping[str, Tensor]) -> Tensor:
        value = raw[name]
        if value.is_floating_point():
            value = value.float()
        temperature = self.temperature.of(name) if name in SIDES else None
        if temperature is None:
            return value
        logits = raw.get(f"{name}_logits")
        if logits is None:
            logits = value.log() - (1 - value).log()  # infinite at 0 and 1, from where the sigmoid comes back
        return torch.sigmoid(logits.float() / temperature)

    def _answers(self, raw: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        out = {n: raw[n] for n in names if n in raw}
        if "keypoints" in names or "map_scores" in names:
            points, scores = self.decoder(raw["maps"])
            decoded = {"keypoints": points * self.to_crop, "map_scores": scores}
            out |= {n: v for n, v in decoded.items() if n in names}
        return out
