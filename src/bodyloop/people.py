"""People: N people in one picture, the one type that flows through everything.

A struct of aligned arrays with K keypoints a person. What was not estimated is None; what is not available
for one person or keypoint is NaN; there are no stand-in values. Coordinates are pixels of the picture as read
and may lie outside of it. Arrays are read-only and their shapes are checked once, here, so that nothing after
it has to. A step that adds something makes new People by `replace`. Files and other packages' types are left
to `bodyloop.storage` and `bodyloop.interop`, probability maps to `bodyloop.maps`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from dataclasses import replace as _replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bodyloop._mask import as_size
from bodyloop.errors import InputError
from bodyloop.images import Source
from bodyloop.masks import Index, Masks, chosen
from bodyloop.skeletons import Skeleton

if TYPE_CHECKING:
    import supervision

    from bodyloop.maps import Moments, ProbabilityMaps, Region

Floats = npt.NDArray[np.float32]

__all__ = ["Change", "People", "Provenance", "Source"]


@dataclass(frozen=True)
class Change:
    """What one pass of the loop changed about a person, and why."""

    what: str
    why: str = ""
    pass_number: int | None = None


@dataclass(frozen=True)
class Provenance:
    """A person's history: the pass that found it (from 1) and what later steps changed."""

    pass_number: int | None = None
    changes: tuple[Change, ...] = ()

    def changed(self, what: str, why: str = "", pass_number: int | None = None) -> Provenance:
        """The history with one more change at its end."""
        return Provenance(self.pass_number, (*self.changes, Change(what, why, pass_number)))


# the arrays: shape in letters (N people, K keypoints, digits as they are, ? anything) and dtype
_ARRAYS: dict[str, tuple[tuple[str | int, ...], type[np.generic]]] = {
    "boxes": (("N", 4), np.float32),
    "scores": (("N",), np.float32),
    "mask_scores": (("N",), np.float32),
    "keypoints": (("N", "K", 2), np.float32),
    "map_scores": (("N", "K"), np.float32),
    "quality": (("N", "K"), np.float32),
    "presence": (("N", "K"), np.float32),
    "visibility": (("N", "K"), np.float32),
    "windows": (("N", 4), np.float32),
    "features": (("N", "?", "?", "?"), np.float32),
    "track_ids": (("N",), np.int64),
}
NO_TRACK = -1  # a person without a track beside people with one: whole numbers have no NaN


@dataclass(frozen=True, eq=False, repr=False)
class People:
    """N people in one picture; compare with `allclose`.

    Attributes:
        image_size: (width, height) of the picture in px.
        source: where the picture is from.
        skeleton: the meaning of the K keypoints.
        boxes: (N, 4) float32 ``x1 y1 x2 y2`` in px.
        scores: (N,) float32 of the boxes.
        masks: N masks.
        mask_scores: (N,) float32, the segmenter's own estimate.
        keypoints: (N, K, 2) float32 x, y in px; may lie outside the picture.
        map_scores: (N, K) float32, the map's value at the decoded point.
        quality: (N, K) float32, the model's own estimate of the location's OKS.
        presence: (N, K) float32, probability that the keypoint lies in the activation window.
        visibility: (N, K) float32, probability that it can be seen.
        windows: (N, 4) float32 ``x1 y1 x2 y2``, the activation windows that presence speaks of.
        maps: probability maps of the keypoints.
        features: (N, D, h, w) float32 of the backbone.
        track_ids: (N,) int64, -1 for none.
        provenance: one history a person.
        extra: the user's own columns, arrays with N entries each.

    Raises:
        InputError: at construction, for a field whose shape or type does not fit; the message names it.
    """

    image_size: tuple[int, int]
    source: Source | None = None
    skeleton: Skeleton | None = None
    boxes: Floats | None = None
    scores: Floats | None = None
    masks: Masks | None = None
    mask_scores: Floats | None = None
    keypoints: Floats | None = None
    map_scores: Floats | None = None
    quality: Floats | None = None
    presence: Floats | None = None
    visibility: Floats | None = None
    windows: Floats | None = None
    maps: ProbabilityMaps | None = None
    features: Floats | None = None
    track_ids: npt.NDArray[np.int64] | None = None
    provenance: tuple[Provenance, ...] | None = None
    extra: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    _n: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        put: Callable[[str, object], None] = lambda k, v: object.__setattr__(self, k, v)  # noqa: E731
        try:
            put("image_size", as_size(self.image_size))
        except InputError as e:
            raise InputError(f"People.image_size: {e}") from e
        letters: dict[str, tuple[int, str]] = {}
        if self.skeleton is not None:
            letters["K"] = len(self.skeleton), f"the skeleton {self.skeleton.name}"
        for name, (shape, dtype) in _ARRAYS.items():
            value = getattr(self, name)
            if value is not None:
                put(name, _checked(name, value, shape, dtype, letters))
        put("extra", MappingProxyType({k: _column(k, v, letters) for k, v in self.extra.items()}))
        if self.provenance is not None:
            put("provenance", tuple(self.provenance))
        for name in ("masks", "maps", "provenance"):
            value = getattr(self, name)
            if value is not None:
                _fit(letters, "N", len(value), name)
        if self.maps is not None:
            _fit(letters, "K", self.maps.keypoint_count, "maps")
        if self.masks is not None and self.masks.size != self.image_size:
            raise InputError(
                f"People.masks: made for a picture of size {self.masks.size}, image_size is {self.image_size}"
            )
        put("_n", letters["N"][0] if "N" in letters else 0)

    @classmethod
    def empty(
        cls, image_size: tuple[int, int], skeleton: Skeleton | None = None, source: Source | None = None
    ) -> People:
        """Nobody: no boxes and, with a skeleton, keypoints (0, K, 2)."""
        none = np.zeros((0, 4), np.float32)
        points = None if skeleton is None else np.zeros((0, len(skeleton), 2), np.float32)
        return cls(image_size, source, skeleton, none, np.zeros(0, np.float32), keypoints=points)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its fields, so that copies in other processes are checked and read-only, too."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _rebuilt, ({**values, "extra": dict(self.extra)},)

    def replace(self, **changes: Any) -> People:
        """The same people with other fields, checked anew."""
        return _replace(self, **changes)

    # a sequence

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[People]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Index) -> People:
        """The people chosen by an int (People of one), slice, list of indices or boolean mask."""
        at = chosen(index, len(self), "people")
        picked: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _ARRAYS or f.name in ("masks", "maps"):
                picked[f.name] = None if value is None else value[at]
        if self.provenance is not None:
            picked["provenance"] = tuple(self.provenance[i] for i in at)
        return self.replace(extra={k: v[at] for k, v in self.extra.items()}, **picked)

    @classmethod
    def concat(cls, parts: Sequence[People]) -> People:
        """Join people of one picture; what only some have is NaN for the others (masks: none, tracks: -1).

        Raises:
            InputError: nothing to join, or different pictures, sizes, skeletons or shapes.
        """
        if not parts:
            raise InputError("People.concat: nothing to join; use People.empty(image_size)")
        same = {name: _common(parts, name) for name in ("image_size", "source", "skeleton")}
        joined: dict[str, Any] = {}
        for name in _ARRAYS:
            joined[name] = _join([getattr(p, name) for p in parts], [len(p) for p in parts], name)
        for name in sorted({k for p in parts for k in p.extra}):
            columns = [p.extra.get(name) for p in parts]
            joined.setdefault("extra", {})[name] = _join(columns, [len(p) for p in parts], f"extra[{name!r}]")
        if any(p.masks is not None for p in parts):
            masks = [p.masks if p.masks is not None else Masks.empty(len(p), p.image_size) for p in parts]
            joined["masks"] = Masks.concat(masks)
        if any(p.provenance is not None for p in parts):
            joined["provenance"] = tuple(h for p in parts for h in (p.provenance or (Provenance(),) * len(p)))
        joined["maps"] = _join_maps(parts)
        return cls(**same, **joined)

    def allclose(self, other: People, *, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
        """Whether both say the same up to the tolerances; NaN equals NaN, absent only absent."""
        from bodyloop.storage import same

        return same(self, other, rtol=rtol, atol=atol)

    def __repr__(self) -> str:
        known = [f.name for f in fields(self) if f.name in _OPTIONAL and getattr(self, f.name) is not None]
        what = f"{len(self)} in {self.image_size[0]}x{self.image_size[1]}"
        kind = f", {self.skeleton.name}" if self.skeleton is not None else ""
        return f"People({what}{kind}: {', '.join([*known, *self.extra]) or 'nothing known'})"

    # derived

    @property
    def keypoint_scores(self) -> Floats | None:
        """(N, K): quality if the model has it, else the maps' values."""
        return self.quality if self.quality is not None else self.map_scores

    def in_skeleton(self, skeleton: Skeleton) -> People:
        """The same people in another skeleton, keypoints taken by name; what this one lacks is NaN.

        Maps are dropped unless every keypoint is there.

        Raises:
            InputError: these people have no skeleton.
        """
        if self.skeleton is None:
            raise InputError("these people have no skeleton to take keypoints by name from")
        if skeleton == self.skeleton:
            return self
        at = skeleton.indices_in(self.skeleton)
        changed: dict[str, Any] = {}
        for name, (shape, _) in _ARRAYS.items():
            value = getattr(self, name)
            if "K" in shape and value is not None:
                taken = value[:, at].copy()
                taken[:, at < 0] = np.nan
                changed[name] = taken
        maps = None
        if self.maps is not None and (at >= 0).all():
            maps = self.maps.keypoints(at)
        return self.replace(skeleton=skeleton, maps=maps, **changed)

    def keypoint_index(self, keypoint: str | int) -> int:
        """Index of a keypoint given by name or number.

        Raises:
            InputError: a name without a skeleton, or a number out of range.
        """
        if isinstance(keypoint, str):
            if self.skeleton is None:
                raise InputError(f"keypoint {keypoint!r}: these people have no skeleton; give the number")
            return self.skeleton.index(keypoint)
        return int(keypoint)

    # probability maps

    def region(
        self, i: int, keypoint: str | int, mass: float | None = None, *, coverage: float | None = None
    ) -> Region:
        """Where one keypoint of person ``i`` is, in image px, if it lies in the window (``presence`` says that).

        Args:
            mass: the smallest region that holds this share of the map (0.95 if nothing is asked for). It holds
                the keypoint as often as the map is honest.
            coverage: instead, the conformal region that holds the keypoint with this probability, on average
                over people like those the model was calibrated on (`bodyloop calibrate`).

        Raises:
            InputError: no maps, or none of this keypoint; both mass and coverage; a coverage that was not
                calibrated.
        """
        from bodyloop.maps import conformal_region, region

        maps, k = self._some_maps(), self.keypoint_index(keypoint)
        if coverage is None:
            return region(maps.widest, i, k, 0.95 if mass is None else mass)
        if mass is not None:
            raise InputError("region: give mass= or coverage=, not both")
        if maps.thresholds is None:
            raise InputError(
                "region(coverage=): no thresholds came with these maps. Either the model's card has none: "
                "'bodyloop calibrate MODEL --data D --out FILE' makes a file that has; or it was run in another "
                "way than calibrated (flip test, masks)"
            )
        return conformal_region(maps.widest, i, k, maps.thresholds.of(k, coverage), maps.variances)

    def probability(self, i: int, keypoint: str | int, zone: object) -> float:
        """Probability that a keypoint of person ``i`` lies in a zone: presence times the map's share there.

        Args:
            zone: a box ``x1 y1 x2 y2``, polygons, a bitmap (H, W), a Masks of one person, a region or a
                function of points, all in image px.

        Raises:
            InputError: no maps or no presence, or a zone of another kind.
        """
        from bodyloop.maps import probability_in

        if self.presence is None:
            raise InputError(
                "probability: this model says nothing of presence; see bodyloop.maps.probability_in"
            )
        if isinstance(zone, Masks):
            zone = zone.union()
        k = self.keypoint_index(keypoint)
        share = probability_in(self._some_maps()[i], zone)
        return float(share[0, k] * self.presence[i, k])

    def moments(self) -> Moments:
        """Mean, covariance, entropy and mass of all maps (of the double map: the outer one) in image px."""
        from bodyloop.maps import layer_moments

        return layer_moments(self._some_maps().widest)

    def _some_maps(self) -> ProbabilityMaps:
        if self.maps is None:
            raise InputError("these people have no probability maps; ask for them when predicting")
        return self.maps

    # files and other packages

    def to_coco(self, image_id: int | str | None = None, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO results, one dict a person; see `bodyloop.interop.to_coco`."""
        from bodyloop.interop import to_coco

        return to_coco(self, image_id, category_id)

    @classmethod
    def from_coco(
        cls,
        items: Sequence[Mapping[str, Any]],
        image_size: tuple[int, int],
        skeleton: Skeleton | None = None,
        source: Source | None = None,
    ) -> People:
        """People of COCO results or annotations of one picture; see `bodyloop.interop.from_coco`."""
        from bodyloop.interop import from_coco

        return from_coco(items, image_size, skeleton, source)

    def to_supervision(self) -> tuple[supervision.KeyPoints | None, supervision.Detections | None]:
        """supervision's keypoints and detections; see `bodyloop.interop.to_supervision`."""
        from bodyloop.interop import to_supervision

        return to_supervision(self)

    @classmethod
    def from_supervision(
        cls,
        image_size: tuple[int, int],
        keypoints: supervision.KeyPoints | None = None,
        detections: supervision.Detections | None = None,
        skeleton: Skeleton | None = None,
        source: Source | None = None,
    ) -> People:
        """People of supervision's keypoints and detections; see `bodyloop.interop.from_supervision`."""
        from bodyloop.interop import from_supervision

        return from_supervision(image_size, keypoints, detections, skeleton, source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``.npz`` (exact, everything) or ``.json`` (readable, without maps and features), atomically.

        Raises:
            FileError: another suffix, or the file cannot be written.
        """
        from bodyloop.storage import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> People:
        """Read what `save` wrote.

        Raises:
            FileError: missing, broken or of another kind; it names the file and what is wrong with it.
        """
        from bodyloop.storage import load

        return load(path)


def _rebuilt(values: dict[str, Any]) -> People:
    return People(**values)


_OPTIONAL = frozenset(f.name for f in fields(People)) - {"image_size", "source", "skeleton", "extra", "_n"}


def _fit(letters: dict[str, tuple[int, str]], letter: str, size: int, name: str) -> None:
    """Hold ``name`` to the count its letter has had so far, or let it set it."""
    known, by = letters.setdefault(letter, (size, name))
    if known != size:
        what = "people" if letter == "N" else "keypoints"
        raise InputError(f"People.{name}: {size} {what}, but {by} has {known}")


def _checked(
    name: str,
    value: object,
    shape: tuple[str | int, ...],
    dtype: type[np.generic],
    letters: dict[str, tuple[int, str]],
) -> npt.NDArray[Any]:
    """``value`` as a read-only array of the dtype, its shape held to the letters; copied if it must be."""
    try:
        a = np.asarray(value)
    except (TypeError, ValueError) as e:
        raise InputError(f"People.{name}: expected an array {_wanted(shape)}: {e}") from e
    kinds = "iu" if dtype is np.int64 else "fiub"
    if a.dtype.kind not in kinds and a.size:
        raise InputError(
            f"People.{name}: expected numbers of shape {_wanted(shape)}, got {a.dtype} {a.shape}"
        )
    if a.ndim != len(shape) or any(
        isinstance(s, int) and s != n for s, n in zip(shape, a.shape, strict=True)
    ):
        raise InputError(f"People.{name}: expected shape {_wanted(shape)}, got {a.shape}")
    for letter, n in zip(shape, a.shape, strict=True):
        if letter in ("N", "K"):
            _fit(letters, str(letter), n, name)
    if a.dtype != dtype:
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            a = a.astype(dtype)
    return _frozen(a)


def _wanted(shape: tuple[str | int, ...]) -> str:
    return f"({', '.join(str(s) for s in shape)}{',' if len(shape) == 1 else ''})"


def _column(name: str, value: object, letters: dict[str, tuple[int, str]]) -> npt.NDArray[Any]:
    a = np.asarray(value)
    if a.ndim < 1 or a.dtype.hasobject:
        raise InputError(
            f"People.extra[{name!r}]: expected an array with one entry a person, got {a.dtype} {a.shape}"
        )
    _fit(letters, "N", len(a), f"extra[{name!r}]")
    return _frozen(a)


def _frozen(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if a.flags.writeable:
        a = a.view()
        a.flags.writeable = False
    return a


def _common(parts: Sequence[People], name: str) -> Any:
    """The value that all parts share; None gives way except for the picture's size."""
    values = [getattr(p, name) for p in parts if getattr(p, name) is not None]
    if any(v != values[0] for v in values[1:]):
        shown = [v.name if isinstance(v, Skeleton) else v for v in values]
        raise InputError(f"People.concat: different {name}: {', '.join(str(v) for v in shown)}")
    return values[0] if values else None


def _join(
    columns: Sequence[npt.NDArray[Any] | None], counts: Sequence[int], name: str
) -> npt.NDArray[Any] | None:
    """Columns one after another; a missing one becomes NaN, -1 for tracks, "" for text."""
    present = [c for c in columns if c is not None]
    if not present:
        return None
    tail = present[0].shape[1:]
    if any(c.shape[1:] != tail for c in present):
        raise InputError(f"People.concat: {name} has different shapes {[c.shape for c in present]}")
    if len(present) == len(columns):
        return np.concatenate(present)
    kind = np.result_type(*present)
    if name == "track_ids":
        blank: Any = NO_TRACK
    elif kind.kind in "US":
        blank = np.zeros((), kind)[()]
    else:
        blank = np.nan
        kind = kind if kind.kind in "fc" else np.dtype(np.float64)
    filled = [
        np.full((n, *tail), blank, kind) if c is None else c for c, n in zip(columns, counts, strict=True)
    ]
    return np.concatenate(filled)


def _join_maps(parts: Sequence[People]) -> ProbabilityMaps | None:
    like = next((p.maps for p in parts if p.maps is not None), None)
    if like is None:
        return None
    maps = [p.maps if p.maps is not None else like.blank(len(p)) for p in parts]
    return type(like).concat(maps)
