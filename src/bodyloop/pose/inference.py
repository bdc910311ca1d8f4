"""Crops through the network: batches of bounded size, the flip test, and the way from maps to points.

Two ways lead to keypoints: the network function decodes by itself (no flip test, or an engine that averages
flips), or the maps come out, are averaged with those of the mirrored crops and decoded by the numpy
definitions. What is wanted decides, never which engine runs. Points leave here in map px.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bodyloop.engines import Engine
from bodyloop.errors import InputError, ModelError
from bodyloop.geometry import Crop
from bodyloop.maps import (
    Decoder,
    Thresholds,
    decode,
    flip_average,
    flip_average_scores,
    oks_variances,
    unflip_maps,
)
from bodyloop.masks import Masks
from bodyloop.models.cards import Card
from bodyloop.pose.crops import normalise, warp_crops
from bodyloop.pose.parity import NONE, Parity

Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]

SIDES = ("presence", "visibility", "quality")
MIRRORED = "mirrored_"  # an output of the mirrored crop, put back: what the flip test averages with
FLIP = "flip_"  # outputs of engines that average the flip test by themselves
BATCH = 16  # crops a batch: beyond it a CPU gains nothing
_ONE_PASS = ("logits", "logits_outer", "features")  # an average over the mirror image means nothing for them


@dataclass(frozen=True)
class PoseOptions:
    """What a prediction does and what it returns beyond keypoints and scores.

    Attributes:
        flip: average with the mirrored crop (twice the time).
        batch_size: crops that go through the network at once.
        maps, features: return them (they are large).
        extra: further outputs of the network by name ("error", "logits"); they come back in `People.extra`. With
            the flip test "mirrored_logits" is what the mirrored crop gives, put back.
        decode: another decoder than the card's, "expected-oks" or "dark-udp".
        parity: switches that repeat the reference.

    Raises:
        InputError: a batch size below 1 or an unknown decoder.
    """

    flip: bool = True
    batch_size: int = BATCH
    maps: bool = False
    features: bool = False
    extra: tuple[str, ...] = ()
    decode: str | None = None
    parity: Parity = NONE

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.decode is not None:
            decoder_named(self.decode)


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one picture: pixels (H, W, 3) uint8 RGB, N windows, N masks or None."""

    pixels: Pixels
    crop: Crop
    masks: Masks | None


@dataclass(frozen=True)
class _Plan:
    names: tuple[str, ...]  # outputs to ask for, without the flip prefix
    decoded: bool  # keypoints are among them


class Runner:
    """A pose engine with its card: windows in, rows of outputs out. Holds no state between calls.

    Raises:
        ModelError: the card is not of a pose model, or the engine has no maps.
    """

    def __init__(self, engine: Engine, card: Card) -> None:
        if card.kind != "pose" or card.skeleton is None or card.decode is None:
            raise ModelError(f"card {card.name!r} is of a {card.kind}, not of a pose model")
        self.engine = engine
        self.card = card
        self.decode = card.decode
        self.skeleton = card.skeleton
        self.map_size = card.preprocess.map_size or (48, 64)
        self.variances = oks_variances(self.skeleton.sigma_array, self.map_size)
        self.double = card.decode.double
        self._thresholds = _thresholds(card)
        self._map_names = _map_names(engine, card)
        self.side_names = tuple(n for n in SIDES if n in card.outputs and n in engine.outputs)
        inputs: tuple[str, ...] = getattr(engine, "inputs", ())
        self._input = inputs[0] if inputs else "crops"
        # our own functions take pixels whatever the weights' card says; other files do as their card says
        self._takes_pixels = inputs == ("crops",) or card.preprocess.input == "uint8-nhwc"

    def rows(self, windows: Sequence[Windows], options: PoseOptions) -> dict[str, Array]:
        """Outputs of all windows of all pictures, one after another.

        ``keypoints`` (n, K, 2) float64 map px and ``map_scores`` (n, K) (and both with ``_outer`` of a double
        map), the trained side outputs, what ``options.extra`` names, and ``maps`` / ``maps_outer`` if wanted.
        Nothing at all for no windows.
        """
        plan = self._plan(options)
        parts: dict[str, list[Array]] = {}
        for crops in self._batches(windows, options):
            for k, v in self._batch(crops, plan, options).items():
                parts.setdefault(k, []).append(v)
        return {k: v[0] if len(v) == 1 else np.concatenate(v) for k, v in parts.items()}

    def thresholds(self, options: PoseOptions, masks: Masks | None) -> Thresholds | None:
        """Those of the card's conformal regions, None where it has none or is not run as it was calibrated."""
        known = self.card.calibration
        masked = masks is not None and self.card.preprocess.mask_alpha is not None
        return self._thresholds if known and (known.flip, known.masks) == (options.flip, masked) else None

    def warm_up(self, options: PoseOptions) -> None:
        """Do what the first call would spend time on."""
        plan = self._plan(options)
        there = self.engine.outputs
        names = [n for n in plan.names if not n.startswith(MIRRORED)]
        self.engine.warm_up([self._flipped(n, there) if options.flip else n for n in names])

    def _plan(self, options: PoseOptions) -> _Plan:
        there = self.engine.outputs
        averages = f"{FLIP}keypoints" in there
        own = (
            options.decode is None
            and not options.maps
            and not (options.parity.unbounded_dark_step and self.decode.method == "dark-udp")
            and "keypoints" in there
            and (averages or not options.flip)
        )
        names = [*(("keypoints", "map_scores") if own else self._map_names), *self.side_names]
        extra = [*options.extra, *(["features"] if options.features else [])]
        unknown = [n for n in extra if n.removeprefix(MIRRORED if options.flip else "") not in there]
        if unknown:
            raise ModelError(
                f"{self.card.name} has no output {', '.join(unknown)}; it has {', '.join(there)}"
            )
        return _Plan(tuple(dict.fromkeys([*names, *extra])), own)

    def _batches(self, windows: Sequence[Windows], options: PoseOptions) -> Iterator[Pixels]:
        """Crops (n, h, w, 3), n at most the batch size, filled up across pictures."""
        alpha = self.card.preprocess.mask_alpha
        pending: list[Pixels] = []
        room = options.batch_size
        for one in windows:
            at = 0
            while at < len(one.crop):
                some = slice(at, min(len(one.crop), at + room))
                masks = None if one.masks is None else one.masks[some]
                pending.append(warp_crops(one.pixels, one.crop[some], masks, alpha, options.parity))
                room -= len(pending[-1])
                at = some.stop
                if room == 0:
                    yield pending[0] if len(pending) == 1 else np.concatenate(pending)
                    pending, room = [], options.batch_size
        if pending:
            yield pending[0] if len(pending) == 1 else np.concatenate(pending)

    def _batch(self, crops: Pixels, plan: _Plan, options: PoseOptions) -> dict[str, Array]:
        out = self._run(crops, plan.names, options.flip)
        if plan.decoded:
            w, h = self.card.preprocess.size
            grid = (np.array(self.map_size) - 1.0) / (np.array([w, h]) - 1.0)
            out["keypoints"] = out["keypoints"].astype(np.float64) * grid
            return out
        how = decoder_named(options.decode or self.decode.method)
        for name, suffix in zip(self._map_names, ("", "_outer"), strict=False):
            maps = out[name] if options.maps or name in options.extra else out.pop(name)
            parity = options.parity.unbounded_dark_step
            read = decode(maps, how, self.variances, parity=parity)
            out["keypoints" + suffix], out["map_scores" + suffix] = read.points, read.scores
            if options.maps:
                out["maps" + suffix] = maps
        return out

    def _run(self, crops: Pixels, names: Sequence[str], flip: bool) -> dict[str, Array]:
        there = self.engine.outputs
        straight = [n for n in names if not n.startswith(MIRRORED)]
        asked = [self._flipped(n, there) if flip else n for n in straight]
        got = self.engine.run({self._input: self._fed(crops)}, asked)
        out: dict[str, Array] = {n: got[a] for n, a in zip(straight, asked, strict=True)}
        self._check(out, len(crops))
        if not flip:
            return out
        left = [n for n, a in zip(straight, asked, strict=True) if n == a and n not in _ONE_PASS]
        apart = [n.removeprefix(MIRRORED) for n in names if n.startswith(MIRRORED)]
        if left or apart:
            mirrored = self.engine.run({self._input: self._fed(crops[:, :, ::-1])}, [*left, *apart])
            out |= {MIRRORED + n: unflip_maps(mirrored[n], self.skeleton.flip) for n in apart}
            for n in left:
                average = flip_average if out[n].ndim == 4 else flip_average_scores
                out[n] = average(out[n], mirrored[n], self.skeleton.flip)
        return out

    @staticmethod
    def _flipped(name: str, there: Sequence[str]) -> str:
        return FLIP + name if FLIP + name in there else name

    def _fed(self, crops: Pixels) -> Array:
        p = self.card.preprocess
        if self._takes_pixels:
            return np.ascontiguousarray(crops)
        return normalise(crops, p.mean, p.std, p.order)

    def _check(self, out: Mapping[str, Array], n: int) -> None:
        """A network whose outputs have other shapes than the card says is another network."""
        k, (w, h) = len(self.skeleton), self.map_size
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(self._map_names, (n, k, h, w))
        expected |= dict.fromkeys(("map_scores", *SIDES), (n, k)) | {"keypoints": (n, k, 2)}
        for name, shape in expected.items():
            if name in out and out[name].shape != shape:
                raise ModelError(
                    f"card {self.card.name!r} does not fit its network: output {name!r} must have the shape "
                    f"{shape}, the network gives {out[name].shape}"
                )


def decoder_named(name: str) -> Decoder:
    """The decoder by its name in cards ("expected-oks", "dark-udp") or in `bodyloop.maps`.

    Raises:
        InputError: an unknown name.
    """
    match name.replace("-", "_"):
        case "expected_oks":
            return "expected_oks"
        case "dark_udp":
            return "dark_udp"
    raise InputError(f"decode must be 'expected-oks' or 'dark-udp', got {name!r}")


def _thresholds(card: Card) -> Thresholds | None:
    known = card.calibration
    if known is None or not known.regions:
        return None
    levels = sorted(known.regions, key=lambda level: -level.alpha)
    return Thresholds(np.array([1 - v.alpha for v in levels]), np.array([v.thresholds for v in levels]))


def _map_names(engine: Engine, card: Card) -> tuple[str, ...]:
    """Names of the maps among the engine's outputs; a foreign file with one output means that one."""
    wanted = ("maps", "maps_outer") if card.decode and card.decode.double else ("maps",)
    if all(n in engine.outputs for n in wanted):
        return wanted
    if len(engine.outputs) == len(wanted) == 1:
        return engine.outputs
    raise ModelError(
        f"card {card.name!r} needs the output {' and '.join(wanted)}; "
        f"the network has {', '.join(engine.outputs)}"
    )
