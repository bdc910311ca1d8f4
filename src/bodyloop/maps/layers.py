"""Probability maps of N people with the windows they speak of.

A `MapLayer` is N x K maps on one `Crop`; `ProbabilityMaps` is one such layer for most models ("single") and
for the double map: "inner" over the crop and "outer" over a larger window. Values are float32 and read-only.
What is computed from maps (decoding, moments, regions) stands in the sibling modules as plain functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.geometry import Crop

Role = Literal["single", "inner", "outer"]
Index = int | slice | Sequence[int] | Sequence[bool] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]


def _read_only(a: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    view = a.view()
    view.flags.writeable = False
    return view


def _rows(index: Index) -> slice | npt.NDArray[np.generic]:
    """An index that keeps the axis of people: an int gives one person."""
    if isinstance(index, int | np.integer):
        i = int(index)
        return slice(i, i + 1 or None)
    return index if isinstance(index, slice) else np.asarray(index if len(index) else np.zeros(0, np.intp))


@dataclass(frozen=True, eq=False)
class MapLayer:
    """Maps of N people and K keypoints over N windows.

    Attributes:
        values: (N, K, h, w) float32, read-only. Probability maps are non-negative and sum to 1; heatmaps of
            plain-map models may hold anything finite. NaN: not available for this person.
        crop: the N windows in the image; ``crop.map_size`` is (w, h).
        role: "single", or "inner" / "outer" of the double map.
    """

    values: npt.NDArray[np.float32]
    crop: Crop
    role: Role = "single"

    def __post_init__(self) -> None:
        v = np.asarray(self.values, dtype=np.float32)
        if v.ndim != 4:
            raise InputError(f"maps: values must have shape (N, K, h, w), got {v.shape}")
        if v.shape[0] != len(self.crop):
            raise InputError(f"maps: {v.shape[0]} people in values but {len(self.crop)} windows in crop")
        if (v.shape[3], v.shape[2]) != tuple(self.crop.map_size):
            raise InputError(
                f"maps: values are {v.shape[3]} x {v.shape[2]} cells (w x h), "
                f"crop.map_size says {self.crop.map_size[0]} x {self.crop.map_size[1]}"
            )
        if self.role not in get_args(Role):
            raise InputError(f"maps: role must be one of {', '.join(get_args(Role))}, got {self.role!r}")
        object.__setattr__(self, "values", _read_only(v))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Index) -> MapLayer:
        """The people chosen by an int (one person, the axis stays), slice, indices or boolean mask."""
        i = _rows(index)
        if isinstance(index, int | np.integer) and not -len(self) <= index < len(self):
            raise IndexError(f"person {index} of {len(self)}")
        return replace(self, values=self.values[i], crop=self.crop[i])


@dataclass(frozen=True, eq=False)
class Thresholds:
    """How far regions must grow to hold the truth with a stated probability; see `bodyloop.maps.conformal`.

    Attributes:
        coverage: (A,) float64 probabilities, ascending.
        values: (A, K) float64 in 0..1; 1 is the whole window.
    """

    coverage: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        c, v = np.asarray(self.coverage, np.float64), np.asarray(self.values, np.float64)
        if c.ndim != 1 or v.ndim != 2 or len(v) != len(c):
            raise InputError(
                f"thresholds: expected coverage (A,) and values (A, K), got {c.shape}, {v.shape}"
            )
        if not (((c > 0) & (c < 1)).all() and (np.diff(c) > 0).all() and ((v >= 0) & (v <= 1)).all()):
            raise InputError("thresholds: coverage must ascend between 0 and 1, values lie in 0..1")
        object.__setattr__(self, "coverage", _read_only(c))
        object.__setattr__(self, "values", _read_only(v))

    def of(self, keypoint: int, coverage: float) -> float:
        """The threshold of a keypoint.

        Raises:
            InputError: a coverage that was not calibrated, or no such keypoint.
        """
        level = np.flatnonzero(np.isclose(self.coverage, coverage, rtol=0, atol=1e-9))
        if not len(level):
            known = ", ".join(f"{c:g}" for c in self.coverage)
            raise InputError(f"coverage {coverage:g} was not calibrated; this model has {known}")
        k = self.values.shape[1]
        if not -k <= keypoint < k:
            raise InputError(f"keypoint {keypoint} of {k}")
        return float(self.values[level[0], keypoint])

    def same(self, other: Thresholds | None) -> bool:
        """Whether both say the same."""
        return (
            other is not None
            and np.array_equal(self.coverage, other.coverage)
            and np.array_equal(self.values, other.values)
        )


@dataclass(frozen=True, eq=False)
class ProbabilityMaps:
    """All map layers of N people, and how wide a keypoint's OKS kernel is on them.

    Attributes:
        layers: one layer with role "single", or an "inner" and an "outer" one of the same N and K.
        variances: (K,) float64, map px^2: kernels of expected-OKS decoding (`oks_variances`); read-only.
        thresholds: of conformal regions on the widest layer; None where the model or the way it was run has none.
    """

    layers: tuple[MapLayer, ...]
    variances: npt.NDArray[np.float64]
    thresholds: Thresholds | None = None

    def __post_init__(self) -> None:
        layers = tuple(self.layers)
        roles = sorted(layer.role for layer in layers)
        if roles not in (["single"], ["inner", "outer"]):
            raise InputError(f"maps: layers must be one 'single', or 'inner' and 'outer'; got {roles}")
        shapes = {layer.values.shape[:2] for layer in layers}
        if len(shapes) > 1:
            raise InputError(f"maps: layers differ in people or keypoints: {sorted(shapes)}")
        v = np.asarray(self.variances, dtype=np.float64)
        if v.shape != (layers[0].values.shape[1],):
            raise InputError(f"maps: variances must have shape ({layers[0].values.shape[1]},), got {v.shape}")
        if not (v > 0).all():
            raise InputError("maps: variances must be positive, in map px^2 (see oks_variances)")
        if self.thresholds is not None and self.thresholds.values.shape[1] != len(v):
            raise InputError(
                f"maps: thresholds of {self.thresholds.values.shape[1]} keypoints, maps of {len(v)}"
            )
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "variances", _read_only(v))

    @classmethod
    def single(
        cls,
        values: npt.ArrayLike,
        crop: Crop,
        variances: npt.ArrayLike,
        thresholds: Thresholds | None = None,
    ) -> ProbabilityMaps:
        """The usual case: one layer of (N, K, h, w) values over ``crop``."""
        layer = MapLayer(np.asarray(values, np.float32), crop)
        return cls((layer,), np.asarray(variances, np.float64), thresholds)

    def __len__(self) -> int:
        return len(self.layers[0])

    @property
    def keypoint_count(self) -> int:
        """K."""
        return int(self.layers[0].values.shape[1])

    def layer(self, role: Role) -> MapLayer:
        """The layer of that role.

        Raises:
            InputError: these maps have no such layer.
        """
        for layer in self.layers:
            if layer.role == role:
                return layer
        raise InputError(f"maps: no layer {role!r}; there is {', '.join(m.role for m in self.layers)}")

    @property
    def widest(self) -> MapLayer:
        """The layer that covers the largest window: "outer" of the double map, else the only one."""
        return max(self.layers, key=lambda layer: layer.role == "outer")

    def __getitem__(self, index: Index) -> ProbabilityMaps:
        """The people chosen by an int (one person, the axis stays), slice, indices or boolean mask."""
        return replace(self, layers=tuple(layer[index] for layer in self.layers))

    def keypoints(self, index: npt.NDArray[np.integer]) -> ProbabilityMaps:
        """The maps of some keypoints, in that order."""
        layers = tuple(replace(layer, values=layer.values[:, index]) for layer in self.layers)
        known = self.thresholds
        thresholds = None if known is None else Thresholds(known.coverage, known.values[:, index])
        return ProbabilityMaps(layers, self.variances[index], thresholds)

    @classmethod
    def concat(cls, parts: Sequence[ProbabilityMaps]) -> ProbabilityMaps:
        """Join the people of several maps with equal layers and kernels; thresholds stay if all have the same.

        Raises:
            InputError: nothing to join, or roles, keypoints, map sizes or kernels differ.
        """
        if not parts:
            raise InputError("maps: nothing to join")
        first = parts[0]
        roles = tuple(layer.role for layer in first.layers)
        for p in parts[1:]:
            if {layer.role for layer in p.layers} != set(roles):
                raise InputError(f"maps: cannot join layers {roles} and {tuple(m.role for m in p.layers)}")
            if p.variances.shape != first.variances.shape or not np.allclose(p.variances, first.variances):
                raise InputError("maps: cannot join maps of different keypoints or kernels")
        layers = []
        for role in roles:
            same = [p.layer(role) for p in parts]
            crop = Crop.concat([m.crop for m in same])
            layers.append(MapLayer(np.concatenate([m.values for m in same]), crop, role))
        known = first.thresholds
        agreed = known is not None and all(known.same(p.thresholds) for p in parts)
        return cls(tuple(layers), first.variances, known if agreed else None)

    def blank(self, n: int) -> ProbabilityMaps:
        """Maps of ``n`` people of the same make that are not available: all NaN, windows too."""

        def empty(layer: MapLayer) -> MapLayer:
            nan = np.full((n, 2), np.nan)
            crop = replace(layer.crop, center=nan, scale=nan.copy(), rotation=np.zeros(n))
            return MapLayer(np.full((n, *layer.values.shape[1:]), np.nan, np.float32), crop, layer.role)

        return replace(self, layers=tuple(empty(layer) for layer in self.layers))

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Plain arrays for an ``.npz``: ``variances`` and, per role, ``<role>_values``, ``_center``, ...; and
        ``coverage`` and ``thresholds`` where there are any."""
        out: dict[str, npt.NDArray[np.generic]] = {"variances": self.variances}
        for layer in self.layers:
            out[f"{layer.role}_values"] = layer.values
            out[f"{layer.role}_center"] = layer.crop.center
            out[f"{layer.role}_scale"] = layer.crop.scale
            out[f"{layer.role}_rotation"] = layer.crop.rotation
            out[f"{layer.role}_size"] = np.asarray(layer.crop.size, np.int64)
        if self.thresholds is not None:
            out |= {"coverage": self.thresholds.coverage, "thresholds": self.thresholds.values}
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> ProbabilityMaps:
        """The inverse of `to_arrays`.

        Raises:
            InputError: an array is missing or has the wrong shape; the message names it.
        """
        layers = []
        for role in get_args(Role):
            if f"{role}_values" not in arrays:
                continue
            names = [f"{role}_{part}" for part in ("values", "center", "scale", "rotation", "size")]
            missing = [n for n in [*names, "variances"] if n not in arrays]
            if missing:
                raise InputError(f"maps: the file lacks {', '.join(missing)}")
            values, center, scale, rotation = (np.asarray(arrays[n], np.float64) for n in names[:4])
            n = len(values)
            if center.shape != (n, 2) or scale.shape != (n, 2) or rotation.shape != (n,) or values.ndim != 4:
                raise InputError(f"maps: windows of layer {role!r} do not fit its values {values.shape}")
            size = np.asarray(arrays[names[4]], np.int64)
            if size.shape != (2,):
                raise InputError(f"maps: {names[4]} must be (w, h), got shape {size.shape}")
            wh = (int(size[0]), int(size[1]))
            crop = Crop(center, scale, rotation, wh, (values.shape[3], values.shape[2]))
            layers.append(MapLayer(np.asarray(arrays[names[0]], np.float32), crop, role))
        if not layers:
            raise InputError("maps: the file has no layer (single_values, or inner_values and outer_values)")
        thresholds = None
        if "coverage" in arrays and "thresholds" in arrays:
            c, v = (np.asarray(arrays[n], np.float64) for n in ("coverage", "thresholds"))
            thresholds = Thresholds(c, v)
        return cls(tuple(layers), np.asarray(arrays["variances"], np.float64), thresholds)
