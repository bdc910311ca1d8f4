"""pycocotools' evaluator class over this package's: code that already uses one changes its import only.

The two arguments are pycocotools' (or xtcocotools') COCO objects, or anything with the same ``dataset``. Also
here: xtcocotools' kinds of evaluation, sigmas and ``use_area``, exococotools' ``extended_oks``. `summarize` writes
its lines to standard output, because those who call it expect them there; nothing else is written.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval.accumulate import AREA_RANGES, RECALL_POINTS, THRESHOLDS
from bodyloop.eval.boxes import AREAS as BOX_AREAS
from bodyloop.eval.boxes import LIMITS
from bodyloop.eval.coco_inputs import PARTS, Inputs, chosen, read, records
from bodyloop.eval.crowdpose import ROUNDED, class_ap, crowd_classes
from bodyloop.eval.documents import Document
from bodyloop.eval.evidence import Evidence, judge, pair_up, sides
from bodyloop.eval.extended import CONFIDENCE, Extension, by_levels
from bodyloop.eval.keypoints import AREAS, LIMIT, as_sigmas, tools_sigmas
from bodyloop.eval.protocols import EXTENDED, Rules, rules
from bodyloop.eval.reading import integers
from bodyloop.eval.wholebody import SIGMAS
from bodyloop.geometry import PADDING
from bodyloop.skeletons import COCO, CROWDPOSE_14

Floats = npt.NDArray[np.float64]

_SIGMAS: dict[str, Floats] = {
    "keypoints": tools_sigmas(COCO),
    "keypoints_crowd": tools_sigmas(CROWDPOSE_14),
    **{kind: SIGMAS[part] for kind, part in PARTS.items()},
}
IOU_TYPES = ("bbox", "segm", *_SIGMAS)

Row = tuple[str, float | None, str, int]
"""A number of the summary: AP or AR, at one IoU or None for all, area range, place among the limits."""

_BOX_ROWS: tuple[Row, ...] = (
    *(("AP", iou, "all", -1) for iou in (None, 0.5, 0.75)),
    *(("AP", None, area, -1) for area in BOX_AREAS[1:]),
    *(("AR", None, "all", i) for i in range(len(LIMITS))),
    *(("AR", None, area, -1) for area in BOX_AREAS[1:]),
)
_KEYPOINT_ROWS: tuple[Row, ...] = tuple(
    (what, iou, area, -1)
    for what in ("AP", "AR")
    for iou, area in ((None, "all"), (0.5, "all"), (0.75, "all"), (None, "medium"), (None, "large"))
)
_CROWD_ROWS = tuple(row for row in _KEYPOINT_ROWS if row[2] == "all")


class Params:
    """What an evaluation is told, by pycocotools' names.

    ``imgIds``, ``catIds``, ``iouThrs``, ``maxDets``, ``areaRng`` with ``areaRngLbl``, ``useCats`` and
    ``kpt_oks_sigmas`` may be changed before `COCOeval.evaluate`; ``recThrs`` may not.
    """

    def __init__(self, iouType: str = "segm") -> None:
        if iouType not in IOU_TYPES:
            raise ConfigError(f"unknown iouType {iouType!r}; known: {', '.join(IOU_TYPES)}")
        boxes = iouType in ("bbox", "segm")
        self.iouType = iouType
        self.imgIds: Sequence[int] = []
        self.catIds: Sequence[int] = []
        self.iouThrs: npt.ArrayLike = THRESHOLDS.copy()
        self.recThrs: npt.ArrayLike = RECALL_POINTS.copy()
        self.maxDets: Sequence[int] = list(LIMITS) if boxes else [LIMIT]
        self.areaRngLbl: Sequence[str] = list(BOX_AREAS if boxes else AREAS)
        self.areaRng: Sequence[Sequence[float]] = [list(AREA_RANGES[name]) for name in self.areaRngLbl]
        self.useCats: int | bool = 1
        self.kpt_oks_sigmas: npt.ArrayLike = [] if boxes else _SIGMAS[iouType].copy()

    def check(self, fixed: bool) -> None:
        """A ConfigError for what is not possible; ``fixed``: nothing but images and categories may differ."""
        usual = Params(self.iouType)
        if not np.array_equal(self.recThrs, usual.recThrs):
            raise ConfigError("params.recThrs cannot be changed: precision is read at 101 points of recall")
        thresholds, ids = np.asarray(self.iouThrs), [*self.imgIds, *self.catIds]
        if thresholds.ndim != 1 or not len(thresholds) or thresholds.dtype.kind not in "iuf":
            raise ConfigError(f"params.iouThrs must be a list of numbers, got {self.iouThrs!r}")
        if len(self.areaRng) != len(self.areaRngLbl) or any(len(r) != 2 for r in self.areaRng):
            raise ConfigError("params.areaRng must have a range [low, high] for each of params.areaRngLbl")
        if not len(self.maxDets) or not all(isinstance(m, int | np.integer) and m > 0 for m in self.maxDets):
            raise ConfigError(f"params.maxDets must be whole numbers from 1, got {self.maxDets!r}")
        if not all(isinstance(i, int | np.integer) for i in ids):
            raise ConfigError("params.imgIds and params.catIds must be whole numbers")
        if fixed:
            for name in ("iouThrs", "maxDets", "areaRng"):
                if not np.array_equal(getattr(self, name), getattr(usual, name)):
                    raise ConfigError(f"params.{name} cannot be changed where there are visibility levels")


class COCOeval:
    """Evaluate predictions with pycocotools' calls: `evaluate`, `accumulate`, `summarize`, then ``stats``.

    Args:
        cocoGt, cocoDt: COCO objects or their dicts; predictions as ``loadRes`` gives them, or as a list.
        iouType: "bbox", "segm", "keypoints"; as in xtcocotools "keypoints_crowd" (CrowdPose) and
            "keypoints_wholebody", "..._body", "..._foot", "..._face", "..._lefthand", "..._righthand".
        sigmas: (K,) of the keypoints; None: those of the kind.
        use_area: False takes 0.53 w h of their boxes for the areas of annotations (CrowdPose has no others).
        extended_oks: Ex-OKS with visibility levels ("keypoints" only); ``stats`` are then exococotools'.
        confidence_thr, padding: of Ex-OKS, see `evaluate_extended`.
        protocol: "standard", or the tool whose numbers are to be repeated.

    Attributes:
        params: `Params`; may be changed before `evaluate`.
        eval: of `accumulate`: precision (T, R, K, A, M), recall (T, K, A, M), scores, counts, params, date; with
            levels (T, V, ...).
        stats: of `summarize`.

    Raises:
        ConfigError: unknown iouType or protocol, or what they do not know.
    """

    def __init__(
        self,
        cocoGt: Any = None,
        cocoDt: Any = None,
        iouType: str = "segm",
        sigmas: npt.ArrayLike | None = None,
        use_area: bool = True,
        extended_oks: bool = False,
        confidence_thr: float = CONFIDENCE,
        padding: float = PADDING,
        *,
        protocol: str = "standard",
    ) -> None:
        self.cocoGt, self.cocoDt = cocoGt, cocoDt
        self.params = Params(iouType)
        self.use_area = use_area
        self.protocol = rules(protocol).name
        self.extension: Extension | None = None
        if extended_oks and (iouType != "keypoints" or protocol not in EXTENDED):
            raise ConfigError(
                f"extended_oks is for iouType 'keypoints' and one of the protocols {', '.join(EXTENDED)}, "
                f"got {iouType!r} and {protocol!r}"
            )
        if extended_oks or (protocol == "exococotools" and iouType == "keypoints"):  # which always has levels
            self.extension = Extension(padding, confidence_thr, plain=not extended_oks)
        if sigmas is not None:
            self.params.kpt_oks_sigmas = as_sigmas(sigmas)
        if cocoGt is not None:
            for name, key in (("imgIds", "images"), ("catIds", "categories")):
                ids = integers(records(cocoGt, key, "cocoGt"), "id", f"cocoGt: {key}")
                setattr(self.params, name, np.sort(ids).tolist())
        self.eval: dict[str, Any] = {}
        self.stats: npt.NDArray[np.float64] | list[float] = []
        self._run: _Run | None = None

    @property
    def evidence(self) -> Evidence:
        """Similarities, matches and curves by this package's names."""
        return self._done.evidence

    @property
    def ious(self) -> dict[tuple[int, int], Any]:
        """Similarities (D, G) by image and category id, [] where there are no pairs."""
        return self._done.ious

    @property
    def evalImgs(self) -> list[dict[str, Any] | None]:
        """Who was matched in each image: for each category, area range, image; None where there is nobody.

        "No match" is 0, and -1 under xtcocotools and exococotools, as in those tools.
        """
        return self._done.images

    @property
    def _done(self) -> _Run:
        if self._run is None:
            raise InputError("COCOeval: call evaluate() first")
        return self._run

    def evaluate(self) -> None:
        """Match predictions with annotations, for the images and categories of ``params``.

        Raises:
            InputError: annotations or predictions are missing or malformed.
            ConfigError: parameters that are not possible.
        """
        p, how = self.params, rules(self.protocol)
        if self.cocoGt is None or self.cocoDt is None:
            raise InputError("COCOeval needs cocoGt and cocoDt")
        p.check(fixed=self.extension is not None)
        p.imgIds = np.unique(np.asarray(p.imgIds, np.int64)).tolist()
        p.catIds = np.unique(np.asarray(p.catIds, np.int64)).tolist() if p.useCats else list(p.catIds)
        p.maxDets = sorted(p.maxDets)
        if p.iouType.startswith("keypoints_"):
            how = replace(how, count_flags=p.iouType != "keypoints_crowd")
        gt, dt = chosen(self.cocoGt, self.cocoDt, p.imgIds, p.catIds, bool(p.useCats))
        boxes = p.iouType in ("bbox", "segm")
        sigmas = np.zeros(0) if boxes else as_sigmas(p.kpt_oks_sigmas)
        inputs = read(gt, dt, p.iouType, sigmas, how, self.use_area)
        numbers: Mapping[str, float | None] = {}
        if self.extension is not None:
            report = by_levels(inputs.truth, inputs.found, sigmas, how, self.extension)
            evidence, numbers = report.evidence, report.numbers
        else:
            evidence = self._judge(inputs, how, how.alarms_everywhere or boxes)
        none = -1 if self.protocol in ("xtcocotools", "exococotools") else 0
        self._run = _Run(gt, dt, evidence, tuple(list(r) for r in p.areaRng), p.maxDets[-1], none, numbers)

    def _judge(self, inputs: Inputs, how: Rules, alarms_everywhere: bool) -> Evidence:
        p, truth = self.params, inputs.truth
        pairing = pair_up(truth, inputs.found, p.maxDets[-1], inputs.kept)
        return judge(
            truth,
            inputs.found,
            pairing,
            {"all": (inputs.similarity(*sides(pairing)), inputs.hidden)},
            area=truth.area,
            areas=p.areaRngLbl,
            limits=p.maxDets,
            rules=how,
            alarms_everywhere=alarms_everywhere,
            thresholds=np.asarray(p.iouThrs, np.float64),
            ranges=[(low, high) for low, high in p.areaRng],
        )

    def accumulate(self, p: Params | None = None) -> None:
        """Fill ``eval``; the curves are there since `evaluate`.

        Raises:
            ConfigError: other parameters than those of `evaluate`.
        """
        if p is not None and p is not self.params:
            raise ConfigError("accumulate() takes the parameters of evaluate(); change params before that")
        curves = self.evidence.curves
        arrays = {"precision": curves.precision, "recall": curves.recall, "scores": curves.scores}
        if self.extension is None:
            arrays = {name: a[:, 0] for name, a in arrays.items()}
        self.eval = {
            "params": self.params,
            "counts": list(arrays["precision"].shape),
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            **arrays,
        }

    def summarize(self) -> None:
        """Write the numbers to standard output, a line each, and keep them as ``stats``.

        Raises:
            InputError: `accumulate` was not called.
            ConfigError: boxes and masks without three limits.
        """
        if not self.eval:
            raise InputError("COCOeval: call accumulate() first")
        lines = self._extended_lines() if self.extension is not None else self._lines()
        self.stats = np.array([value for _, value in lines])
        sys.stdout.write("".join(f" {text} = {value:0.3f}\n" for text, value in lines))

    def _lines(self) -> list[tuple[str, float]]:
        p, kind = self.params, self.params.iouType
        boxes = kind in ("bbox", "segm")
        if boxes and len(p.maxDets) != len(LIMITS):
            raise ConfigError(
                f"summarize() speaks of three limits, params.maxDets has {list(p.maxDets)}; read eval['recall']"
            )
        rows = _BOX_ROWS if boxes else _CROWD_ROWS if kind == "keypoints_crowd" else _KEYPOINT_ROWS
        out = []
        for i, (what, iou, area, place) in enumerate(rows):
            limit = p.maxDets[place]
            if self.protocol != "standard" and (not boxes or i == 0):
                limit = (
                    LIMITS[-1] if boxes else LIMIT
                )  # the tools ask for the usual one, whatever maxDets are
            out.append((self._text(what, iou, area, limit), self._value(what, iou, area, limit)))
        if kind == "keypoints_crowd":
            rounded, thresholds = self.protocol in ROUNDED, np.asarray(p.iouThrs, np.float64)
            for name, images in crowd_classes(self._done.gt).items():
                value = class_ap(self.evidence, images, rounded, thresholds)
                out.append((self._text("AP", None, name, p.maxDets[-1]).replace("area", "type"), value))
        return out

    def _extended_lines(self) -> list[tuple[str, float]]:
        found = {k: v for k, v in self._done.numbers.items() if k != "OKS_matched"}
        levels = [level.name for level in self.evidence.levels[1:]]
        kept = {k: v for k, v in found.items() if not k.startswith("AP_v") or k[4:] in levels}
        return [(f"{name:<6}", float("nan") if v is None else v) for name, v in kept.items()]

    def _text(self, what: str, iou: float | None, area: str, limit: int) -> str:
        p = self.params
        title = {"AP": "Average Precision", "AR": "Average Recall"}[what]
        thresholds = np.asarray(p.iouThrs, np.float64)
        at = f"{thresholds[0]:0.2f}:{thresholds[-1]:0.2f}" if iou is None else f"{iou:0.2f}"
        return f"{title:<18} ({what}) @[ IoU={at:<9} | area={area:>6s} | maxDets={limit:>3d} ]"

    def _value(self, what: str, iou: float | None, area: str, limit: int) -> float:
        """-1 where nothing is to be found, or ``params`` has no such IoU, area or limit."""
        p, curves = self.params, self.evidence.curves
        if area not in p.areaRngLbl or limit not in p.maxDets:
            return -1.0
        t = slice(None) if iou is None else np.asarray(p.iouThrs) == iou
        a, m = list(p.areaRngLbl).index(area), list(p.maxDets).index(limit)
        values = curves.precision[t, 0, :, :, a, m] if what == "AP" else curves.recall[t, 0, :, a, m]
        values = values[values > -1]
        return float(np.mean(values)) if values.size else -1.0


@dataclass(frozen=True, eq=False)
class _Run:
    """What `COCOeval.evaluate` found; pycocotools' lists are made when they are asked for.

    Attributes:
        gt, dt: what was evaluated.
        ranges, limit: areas, and predictions an image.
        none: what stands for "no match".
        numbers: of a report, if one was made.
    """

    gt: Document
    dt: Document
    evidence: Evidence
    ranges: tuple[Sequence[float], ...]
    limit: int
    none: int
    numbers: Mapping[str, float | None]

    @cached_property
    def groups(self) -> dict[tuple[int, int], int]:
        """The group of each category and image that have one, by their ids."""
        truth, pairing = self.evidence.truth, self.evidence.pairing
        categories = truth.category_ids[pairing.group_category].tolist()
        images = truth.image_ids[pairing.group_image].tolist()
        return {key: g for g, key in enumerate(zip(categories, images, strict=True))}

    @cached_property
    def ious(self) -> dict[tuple[int, int], Any]:
        truth, level = self.evidence.truth, self.evidence.levels[0]
        empty = ((i, c) for c in truth.category_ids.tolist() for i in truth.image_ids.tolist())
        out: dict[tuple[int, int], Any] = {key: [] for key in empty}
        for (category, image), g in self.groups.items():
            block = self.evidence.pairing.block(level.similarity, g)
            if block.size:
                out[image, category] = block
        return out

    @cached_property
    def images(self) -> list[dict[str, Any] | None]:
        truth = self.evidence.truth
        return [
            None if (g := self.groups.get((category, image))) is None else self._image(category, a, image, g)
            for category in truth.category_ids.tolist()
            for a in range(len(self.ranges))
            for image in truth.image_ids.tolist()
        ]

    def _image(self, category: int, area: int, image: int, g: int) -> dict[str, Any]:
        """pycocotools' record of one group: annotations that count first."""
        e, level = self.evidence, self.evidence.levels[0]
        pairing = e.pairing
        start = int(pairing.annotation_start[g])
        d = slice(int(pairing.prediction_start[g]), int(pairing.prediction_start[g + 1]))
        ignored = level.ignored[area][start : int(pairing.annotation_start[g + 1])]
        order = np.argsort(ignored, kind="stable")
        gt_ids = e.truth.ids[pairing.annotations[start + order]]
        predictions = pairing.predictions[d].tolist()
        dt_ids = np.array([self.dt.content[i].get("id", i + 1) for i in predictions], np.int64)
        found = level.matches.annotation[area][:, d]
        place = np.argsort(order)  # of each annotation among those ordered
        dt_matches = np.full(found.shape, self.none, np.int64)
        gt_matches = np.full((len(found), len(order)), self.none, np.int64)
        for j in range(found.shape[1]):
            t = np.flatnonzero(found[:, j] >= 0)
            at = place[found[t, j] - start]
            dt_matches[t, j], gt_matches[t, at] = gt_ids[at], dt_ids[j]
        return {
            "image_id": image,
            "category_id": category,
            "aRng": list(self.ranges[area]),
            "maxDet": self.limit,
            "dtIds": dt_ids.tolist(),
            "gtIds": gt_ids.tolist(),
            "dtMatches": dt_matches,
            "gtMatches": gt_matches,
            "dtScores": e.predictions.scores[predictions].tolist(),
            "gtIgnore": ignored[order].astype(np.int64),
            "dtIgnore": level.matches.ignored[area][:, d],
        }
