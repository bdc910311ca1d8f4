"""People as other packages write them: COCO dicts, and supervision's KeyPoints and Detections.

What a format has no place for stands beside its own entries under names of ours, never in their place, so
that a round trip loses nothing but maps, features and histories. Coordinates outside the picture stay as they
are. COCO cannot write "not available": such a keypoint is 0, 0, 0 there and NaN again when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError, MissingDependency
from bodyloop.images import Source
from bodyloop.masks import Masks
from bodyloop.people import NO_TRACK, People
from bodyloop.skeletons import COCO, Skeleton
from bodyloop.storage import extra_columns, to_plain

if TYPE_CHECKING:
    import supervision

# our names beside COCO's: one number, or one a keypoint, for each person
_BESIDE = {
    "scores": "bbox_score",
    "mask_scores": "mask_score",
    "map_scores": "keypoint_map_scores",
    "quality": "keypoint_quality",
    "presence": "keypoint_presence",
    "visibility": "keypoint_visibility",
    "windows": "window",
}
_THIRD = "keypoint_third"  # what the third numbers of "keypoints" are
_MISSING = "keypoint_missing"  # numbers of the keypoints that are not available
# entries that tell how many people there are; without any of them, boxes say so by being NaN
_KNOWN = {*_BESIDE.values(), "keypoints", "score", "track_id"}
_PER_KEYPOINT = ("map_scores", "quality", "presence", "visibility")
SCORE_THRESHOLD = 0.2  # keypoints below it do not count for a person's score, as in COCO's top-down practice


def instance_scores(
    people: People, *, threshold: float = SCORE_THRESHOLD, presence_threshold: float | None = None
) -> npt.NDArray[np.float32] | None:
    """(N,) score of each person as a pose: box score (1 without one) times the mean of its keypoint scores.

    Only keypoints with a score above ``threshold`` count (0 if there are none); with ``presence_threshold``
    those whose presence is above it instead. None if neither boxes nor keypoints are scored.

    Raises:
        InputError: ``presence_threshold`` for people without presence.
    """
    scores = people.keypoint_scores
    if scores is None:
        return people.scores
    if presence_threshold is None:
        counted = scores > threshold
    elif people.presence is not None:
        counted = people.presence > presence_threshold
    else:
        raise InputError("presence_threshold: these people have no presence")
    mean = mean_of_counted(scores, counted)
    box = np.ones(len(people)) if people.scores is None else np.nan_to_num(people.scores, nan=1.0)
    return np.asarray(mean * box, np.float32)


def mean_of_counted(
    scores: npt.NDArray[np.floating], counted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """(N,) mean of the known scores (N, K) that count, 0 where none does."""
    used = counted & np.isfinite(scores)
    total = np.where(used, scores, 0).sum(axis=1, dtype=np.float64)
    return np.asarray(total / np.maximum(used.sum(axis=1), 1))


def to_coco(people: People, image_id: int | str | None = None, category_id: int = 1) -> list[dict[str, Any]]:
    """COCO results, one dict a person, ready for JSON.

    Standard keys as far as known: ``image_id, category_id, keypoints, score, bbox, segmentation``. The third
    number of a keypoint is presence, else its score, else 1. ``score`` is `instance_scores`. Beside them:
    ``bbox_score, mask_score, keypoint_presence, keypoint_visibility, keypoint_quality, keypoint_map_scores,
    keypoint_third, keypoint_missing, window, track_id, extra``.

    Raises:
        InputError: no image id is given or known from the source.
    """
    image_id = Source(image_id=image_id).image_id  # a plain number, also from numpy's
    if image_id is None and people.source is not None:
        image_id = people.source.image_id
    if image_id is None:
        raise InputError("to_coco: COCO results need an image id; give image_id=")
    scores = instance_scores(people)
    columns: dict[str, list[Any]] = {}
    for name, key in _BESIDE.items():
        value = getattr(people, name)
        if value is not None:
            columns[key] = to_plain(value)
    if people.boxes is not None:
        columns["bbox"] = _xywh(people.boxes)
    if scores is not None:
        columns["score"] = to_plain(scores)
    if people.track_ids is not None:
        columns["track_id"] = [None if t == NO_TRACK else t for t in people.track_ids.tolist()]
    if people.keypoints is not None:
        third, kind = _third(people)
        columns["keypoints"] = _triples(people.keypoints, third)
        columns[_THIRD] = [kind] * len(people)
        gone = np.asarray(~np.isfinite(people.keypoints).all(axis=-1))
        if gone.any():
            columns[_MISSING] = [np.flatnonzero(gone[i]).tolist() for i in range(len(people))]
    extra = {k: to_plain(v) for k, v in people.extra.items()}
    results = []
    for i in range(len(people)):
        item: dict[str, Any] = {"image_id": image_id, "category_id": int(category_id)}
        for key in ("keypoints", "score", "bbox"):
            if key in columns and columns[key][i] is not None:
                item[key] = columns[key][i]
        if people.masks is not None and people.masks.present[i]:
            item["segmentation"] = people.masks.rle(i)
        item |= {key: c[i] for key, c in columns.items() if key not in ("keypoints", "score", "bbox")}
        if extra:
            item["extra"] = {k: v[i] for k, v in extra.items()}
        results.append(item)
    return results


def from_coco(
    items: Sequence[Mapping[str, Any]],
    image_size: tuple[int, int],
    skeleton: Skeleton | None = None,
    source: Source | None = None,
) -> People:
    """People of COCO results or annotations of one picture.

    Results (those with a ``score``): the third numbers are ``map_scores``, unless the dicts are ours and say
    more. Annotations: keypoints with flag 0 are NaN, ``visibility`` is 1 for flag 2 and 0 for flag 1; flags,
    area, crowd flag and id stand in ``extra`` as ``keypoint_flags, area, iscrowd, annotation_id``.

    Args:
        skeleton: of the keypoints, COCO's 17 unless given.
        source: where the picture is from; otherwise its id is taken from the items.

    Raises:
        InputError: items of several pictures, or an entry that does not fit; it names the item.
    """
    for i, item in enumerate(items):
        if not isinstance(item, Mapping) or not isinstance(item.get("image_id"), int | str | None):
            raise InputError(f"from_coco: item {i}: expected a dict with a number or text as image_id")
    ids = {item.get("image_id") for item in items}
    if len(ids) > 1:
        raise InputError(f"from_coco: items of {len(ids)} pictures; give those of one picture at a time")
    if source is None and ids - {None}:
        source = Source(image_id=ids.pop())
    if not items:
        return People.empty(image_size, skeleton or COCO, source)
    ours = any({*_BESIDE.values(), _THIRD} & item.keys() for item in items)
    labels = not ours and not any("score" in item for item in items)
    found: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if any(item.get("bbox") is not None for item in items) or not any(_KNOWN & item.keys() for item in items):
        xywh = _rows(items, "bbox", (4,))
        # added before they become float32, so that corners come back exactly
        found["boxes"] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    if any(item.get("segmentation") for item in items):
        found["masks"] = Masks.from_any([item.get("segmentation") or None for item in items], image_size)
    if any(item.get("keypoints") is not None for item in items):
        skeleton = skeleton or COCO
        found |= _keypoints(items, skeleton, labels, ours, extra)
    if labels:
        extra |= {
            name: _rows(items, key, ())
            for key, name in (("area", "area"), ("iscrowd", "iscrowd"), ("id", "annotation_id"))
            if any(key in item for item in items)
        }
    for name, key in _BESIDE.items():
        if any(key in item for item in items):
            tail = (len(skeleton or COCO),) if name in _PER_KEYPOINT else (4,) if name == "windows" else ()
            found[name] = _rows(items, key, tail)
    if not labels and not ours:
        found["scores"] = _rows(items, "score", ())
    if any("track_id" in item for item in items):
        tracks = [item.get("track_id") for item in items]
        found["track_ids"] = np.array([NO_TRACK if t is None else t for t in tracks])
    extra |= extra_columns([item.get("extra") or {} for item in items])
    return People(image_size, source, skeleton, extra=_whole(extra), **found)


def _third(people: People) -> tuple[npt.NDArray[np.float32], str]:
    assert people.keypoints is not None
    if people.presence is not None:
        return people.presence, "presence"
    if people.keypoint_scores is not None:
        return people.keypoint_scores, "score"
    return np.ones(people.keypoints.shape[:2], np.float32), "available"


def _triples(keypoints: npt.NDArray[np.float32], third: npt.NDArray[np.float32]) -> list[Any]:
    """(N) lists of x, y, third; 0, 0, 0 for what is not available."""
    there = np.isfinite(keypoints).all(axis=-1)
    t = np.concatenate([keypoints, np.nan_to_num(third)[..., None]], axis=-1)
    t[~there] = 0
    return to_plain(t.reshape(len(t), 3 * t.shape[1]))


def _xywh(boxes: npt.NDArray[np.float32]) -> list[Any]:
    """x, y, width, height whose sums give the same float32 corners again; None for a box that is missing."""
    return [None if None in b else [b[0], b[1], b[2] - b[0], b[3] - b[1]] for b in to_plain(boxes)]


def _rows(items: Sequence[Mapping[str, Any]], key: str, tail: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """(N, *tail) float64 of one entry of every item, NaN where it is missing or null."""
    out = np.full((len(items), *tail), np.nan)
    for i, item in enumerate(items):
        if item.get(key) is not None:
            try:
                row = np.asarray(item[key], np.float64)
            except (TypeError, ValueError, OverflowError) as e:
                raise InputError(f"from_coco: item {i}: {key}: expected numbers: {e}") from e
            if row.shape != tail:
                raise InputError(
                    f"from_coco: item {i}: {key}: expected {tail or 'one number'}, got {row.shape}"
                )
            out[i] = row
    return out


def _keypoints(
    items: Sequence[Mapping[str, Any]], skeleton: Skeleton, labels: bool, ours: bool, extra: dict[str, Any]
) -> dict[str, Any]:
    flat = _rows(items, "keypoints", (3 * len(skeleton),))
    t = flat.reshape(len(items), -1, 3)
    xy, third = t[..., :2].copy(), t[..., 2]
    out: dict[str, Any] = {"keypoints": xy}
    if labels:
        xy[~(third > 0)] = np.nan
        extra["keypoint_flags"] = np.nan_to_num(third).astype(np.int64)
        out["visibility"] = np.where(third > 0, third >= 2, np.nan)
    else:
        if not ours:
            xy[(t == 0).all(axis=-1)] = np.nan
            out["map_scores"] = third
        for i, item in enumerate(items):
            gone = item.get(_MISSING) or []
            if not isinstance(gone, list) or not all(
                isinstance(k, int) and k in range(len(skeleton)) for k in gone
            ):
                raise InputError(
                    f"from_coco: item {i}: {_MISSING}: expected numbers of keypoints, got {gone!r}"
                )
            xy[i, gone] = np.nan
    return out


def _whole(extra: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Columns of ids and flags as whole numbers again where nothing is missing."""
    for name in ("iscrowd", "annotation_id"):
        a = extra.get(name)
        if a is not None and a.dtype.kind == "f" and (np.abs(a) < 2**53).all() and (a == np.rint(a)).all():
            extra[name] = a.astype(np.int64)
    return extra


# supervision

_IN_DATA = ("map_scores", "quality", "presence", "visibility", "windows")


def to_supervision(people: People) -> tuple[supervision.KeyPoints | None, supervision.Detections | None]:
    """supervision's (KeyPoints, Detections); None where there are no keypoints, or neither boxes nor masks.

    ``KeyPoints.data`` has ``covariance`` (N, K, 2, 2) in px^2 of the probability maps, which its ellipse
    annotators draw, and presence, visibility, quality and map_scores. Points that are not available are NaN
    and marked as not visible. ``Detections`` has boxes (of the masks if need be), masks, scores, track ids.

    Raises:
        MissingDependency: supervision is not installed, or older than 0.29.
        InputError: a person without a box or mask, which Detections cannot hold.
    """
    try:
        import supervision as sv
    except ImportError as e:
        raise MissingDependency(
            "to_supervision needs supervision: pip install 'bodyloop[supervision]'"
        ) from e
    if not hasattr(sv, "VertexEllipseAreaAnnotator"):
        raise MissingDependency(
            f"to_supervision needs supervision 0.29 or newer, this is {sv.__version__}: "
            "pip install -U supervision"
        )
    return _sv_keypoints(people, sv), _sv_detections(people, sv)


def _sv_keypoints(people: People, sv: Any) -> supervision.KeyPoints | None:
    if people.keypoints is None:
        return None
    data = {name: np.array(v) for name in _IN_DATA if (v := getattr(people, name)) is not None}
    if people.maps is not None:
        data["covariance"] = covariances(people)
    values: dict[str, Any] = {
        "xy": np.array(people.keypoints),
        "class_id": np.zeros(len(people), int),
        "data": data,
    }
    if people.keypoint_scores is not None:
        values["keypoint_confidence"] = np.array(people.keypoint_scores)
    if people.scores is not None:
        values["detection_confidence"] = np.array(people.scores)
    there = np.isfinite(people.keypoints).all(axis=-1)
    if not there.all():
        values["visible"] = there
    made: supervision.KeyPoints = sv.KeyPoints(**values)
    return made


def _sv_detections(people: People, sv: Any) -> supervision.Detections | None:
    boxes = people.boxes
    if boxes is None and people.masks is not None:
        boxes = people.masks.boxes
    if boxes is None:
        return None
    missing = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(missing):
        raise InputError(
            f"to_supervision: person {missing[0]} has no box; Detections needs one for everybody"
        )
    data = {} if people.mask_scores is None else {"mask_scores": np.array(people.mask_scores)}
    made: supervision.Detections = sv.Detections(
        xyxy=np.array(boxes),
        mask=None if people.masks is None else people.masks.bitmaps(),
        confidence=None if people.scores is None else np.array(people.scores),
        class_id=np.zeros(len(people), int),
        tracker_id=None if people.track_ids is None else np.array(people.track_ids),
        data={**data, **{k: np.array(v) for k, v in people.extra.items()}},
    )
    return made


def from_supervision(
    image_size: tuple[int, int],
    keypoints: supervision.KeyPoints | None = None,
    detections: supervision.Detections | None = None,
    skeleton: Skeleton | None = None,
    source: Source | None = None,
) -> People:
    """People of supervision's KeyPoints, Detections, or both (of the same people in the same order).

    What `to_supervision` put into ``data`` goes back to its fields (covariances do not: they are the maps');
    the keypoints' confidence becomes ``map_scores`` unless ``data`` says what it is.

    Raises:
        InputError: different numbers of people, or shapes that do not fit.
    """
    found: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if keypoints is not None:
        found["keypoints"] = np.asarray(keypoints.xy)[..., :2]
        found |= {name: np.asarray(v) for name, v in keypoints.data.items() if name in _IN_DATA}
        scores = keypoints.keypoint_confidence
        if scores is not None and not {"quality", "map_scores"} & found.keys():
            found["map_scores"] = np.asarray(scores)
        if keypoints.detection_confidence is not None:
            found["scores"] = np.asarray(keypoints.detection_confidence)
    if detections is not None:
        found["boxes"] = np.asarray(detections.xyxy)
        if detections.mask is not None:
            found["masks"] = Masks.from_bitmaps(np.asarray(detections.mask), image_size)
        if detections.confidence is not None:
            found["scores"] = np.asarray(detections.confidence)
        if detections.tracker_id is not None:
            found["track_ids"] = np.asarray(detections.tracker_id)
        extra = {k: np.asarray(v) for k, v in detections.data.items()}
        if "mask_scores" in extra:
            found["mask_scores"] = extra.pop("mask_scores")
    return People(image_size, source, skeleton, extra=extra, **found)


def covariances(people: People) -> npt.NDArray[np.float32]:
    """(N, K, 2, 2) float32 covariance of x and y of the maps in image px^2; NaN where there is none.

    Raises:
        InputError: these people have no maps.
    """
    return np.asarray(people.moments().covariance, np.float32)
