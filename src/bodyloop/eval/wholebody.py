"""COCO-WholeBody: keypoint AP of body, feet, face, each hand, and all 133 keypoints together.

Each part is COCO's protocol on its own keypoints, with its own sigmas and its own scores. All parts share what
belongs to the person: the annotated area and box, crowds, and the extent of a prediction. Files keep five lists
a person; the whole body is their concatenation.

Source: Jin et al., "Whole-Body Human Pose Estimation in the Wild" (ECCV 2020), as its evaluator and xtcocotools
compute it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.eval.documents import Document, opened
from bodyloop.eval.keypoints import KeypointReport, judge_keypoints
from bodyloop.eval.protocols import rules
from bodyloop.eval.reading import Record, ResultSource, Source, numbers
from bodyloop.skeletons import COCO_WHOLEBODY_133

Floats = npt.NDArray[np.float64]

FIELDS = {  # of annotations and predictions, with how many keypoints
    "body": ("keypoints", 17),
    "foot": ("foot_kpts", 6),
    "face": ("face_kpts", 68),
    "lefthand": ("lefthand_kpts", 21),
    "righthand": ("righthand_kpts", 21),
}
WHOLE = "wholebody"  # all five in a row
HANDS = ("lefthand", "righthand")


@dataclass(frozen=True, eq=False, kw_only=True)
class WholeBodyReport(KeypointReport):
    """The ten numbers of all 133 keypoints together, and a report of each part.

    Attributes:
        parts: "body", "foot", "face", "lefthand", "righthand", "wholebody" (the same as this report's own).
    """

    parts: Mapping[str, KeypointReport]

    @property
    def hands(self) -> dict[str, float]:
        """The mean of left and right hand, by name; of one if the other has nothing to find. Not a protocol."""
        out = {}
        for name in self.names:
            values = [v for p in HANDS if (v := float(getattr(self.parts[p], name))) >= 0]
            out[name] = float(np.mean(values)) if values else -1.0
        return out

    @property
    def numbers(self) -> dict[str, float | None]:
        """The ten numbers, then AP and AR of each part and of the hands' mean, as ``AP_foot``."""
        out = super().numbers
        for name, found in self._rows().items():
            if name != WHOLE:
                out |= {f"AP_{name}": found["AP"], f"AR_{name}": found["AR"]}
        return out

    def to_json(self) -> dict[str, object]:
        """As of every report, with all ten numbers of each part; hands_mean is the mean of both hands."""
        parts = {name: report.numbers for name, report in self.parts.items()}
        return super().to_json() | {"parts": parts, "hands_mean": self.hands}

    def table(self) -> str:
        """A line a part."""
        head = f"{self.task} ({self.protocol} protocol), {self.counts['images']} images"
        columns = "".join(f"{name:>8}" for name in KeypointReport.names)
        lines = [f"  {'':<11}{columns}"]
        for part, found in self._rows().items():
            cells = "".join(
                f"{'-' if (v := found[name]) is None or v < 0 else f'{v:.4f}':>8}"
                for name in KeypointReport.names
            )
            lines.append(f"  {part:<11}{cells}")
        notes = ["hands_mean is the mean of left and right hand, not a protocol of its own", *self.warnings]
        return "\n".join([head, *lines, *(f"  note: {n}" for n in notes)])

    def _rows(self) -> dict[str, Mapping[str, float | None]]:
        rows: dict[str, Mapping[str, float | None]] = {n: r.numbers for n, r in self.parts.items()}
        return {**{n: rows[n] for n in FIELDS}, "hands_mean": dict(self.hands), WHOLE: rows[WHOLE]}


def evaluate_wholebody(
    ground_truth: Source | Document, results: ResultSource | Document, protocol: str = "standard"
) -> WholeBodyReport:
    """AP and AR of the parts and of the whole.

    Args:
        ground_truth: COCO-WholeBody file or its dict. A person has the lists ``keypoints`` (17), ``foot_kpts``
            (6), ``face_kpts`` (68), ``lefthand_kpts`` and ``righthand_kpts`` (21 each) of x y flag; flags may be
            fractions, labelled is what is > 0. ``num_keypoints`` and ``*_valid`` are not read.
        results: COCO results file or list with the same five lists, ``score``, and optionally a score of each
            part (``foot_score``, ..., ``wholebody_score``), for which ``score`` stands in.
        protocol: "standard", or "xtcocotools", which drops predictions of a part whose third numbers are all
            <= 0.

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol.
    """
    how = replace(rules(protocol), count_flags=True)
    gt, dt = opened(ground_truth, "ground truth"), opened(results, "predictions")
    body = FIELDS["body"][1]
    truth = gt.ground_truth(keypoints=body)
    found = dt.predictions(truth, keypoints=body, mixed_boxes=how.mixed_boxes)
    annotated = by_part(gt.records("annotations"), f"{gt.origin}: annotation")
    predicted = by_part(dt.content, f"{dt.origin}: prediction")
    parts = {}
    for part, points in annotated.items():
        labelled = np.count_nonzero(points[..., 2] > 0, axis=1).astype(np.float64)
        parts[part] = judge_keypoints(
            replace(truth, keypoints=points, num_keypoints=labelled),
            replace(found, keypoints=predicted[part], scores=part_scores(dt.content, part, dt.origin)),
            SIGMAS[part],
            how,
            task=f"coco-wholebody {part}",
        )
    whole = parts[WHOLE]
    warnings = dict.fromkeys(w for report in parts.values() for w in report.warnings)
    shared = ("protocol", "parameters", "counts", "evidence", *whole.names)
    return WholeBodyReport(
        task="coco-wholebody",
        parts=parts,
        warnings=tuple(warnings),
        **{name: getattr(whole, name) for name in shared},
    )


def _sigmas() -> dict[str, Floats]:
    ends = np.cumsum([k for _, k in FIELDS.values()])
    split = np.split(COCO_WHOLEBODY_133.sigma_array, ends[:-1])
    return {**dict(zip(FIELDS, split, strict=True)), WHOLE: COCO_WHOLEBODY_133.sigma_array}


SIGMAS = _sigmas()


def by_part(records: Sequence[Record], where: str) -> dict[str, Floats]:
    """(n, K, 3) of each part and of the whole."""
    parts = {
        part: numbers(records, field, where, (3 * k,)).reshape(len(records), k, 3)
        for part, (field, k) in FIELDS.items()
    }
    return parts | {WHOLE: np.concatenate([*parts.values()], axis=1)}


def part_scores(records: Sequence[Record], part: str, origin: str) -> Floats:
    """(P,) scores of a part; of the person where a prediction has none."""
    key = f"{part}_score"
    if part == "body" or not any(key in r for r in records):
        key = "score"
    own = [r if key in r else {key: r["score"]} for r in records]
    return numbers(own, key, f"{origin}: prediction", ())
