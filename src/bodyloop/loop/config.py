"""Configurations of the loop: every choice a named field, one published system one instance.

`BMP_D3`, `BMP_J1` and `BMP_V2` are the authors' (BBoxMaskPose v1 and v2); `BMP_N` is ours, for the small models in
the package. What improves on the published loop is a field that is off in theirs and on in ours.

Source: BBoxMaskPose (ICCV 2025), BBoxMaskPose v2 (2026).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from typing import Literal

from bodyloop.errors import ConfigError

Selection = Literal["k_most_visible", "distance", "closest", "distance+confidence"]
SELECTIONS: tuple[Selection, ...] = ("k_most_visible", "distance", "closest", "distance+confidence")


@dataclass(frozen=True)
class Parity:
    """Switches that repeat what the published loop does where it is wrong; all off by default.

    A switch repeats numbers, never a crash.

    Attributes:
        boxes_as_xywh: corners are read as x, y, width, height by pose NMS, crowd overlap, point selection one by
            one, the size test and the prompts' boxes.
        bgr_to_segmenter: the segmenter sees blue, green, red.
        keep_old_masks: people of earlier passes keep pixels that a later mask has won.
        empty_prompts: a person without a valid keypoint is sent to the segmenter with no point at all.
        false_crowd_is_zero: ``crowd_iou`` None means 0: everybody who overlaps is a crowd.
        remove_whole_groups: somebody whom pose NMS removed goes on removing others, so that of people who look
            alike perhaps nobody is left.
        run_all_passes: a pass that finds nothing new does not end the loop.
        face_of_first_neighbour: of several people's keypoints as negative points, only the first one's nose and
            eyes are thinned out to one.
    """

    boxes_as_xywh: bool = False
    bgr_to_segmenter: bool = False
    keep_old_masks: bool = False
    empty_prompts: bool = False
    false_crowd_is_zero: bool = False
    remove_whole_groups: bool = False
    run_all_passes: bool = False
    face_of_first_neighbour: bool = False

    @classmethod
    def published(cls) -> Parity:
        """Everything as the published loop does it."""
        return cls(**{f.name: True for f in fields(cls)})


@dataclass(frozen=True)
class LoopConfig:
    """How the roles are called and their answers joined.

    Attributes:
        name: of the configuration.
        passes: detect, estimate, segment, mask out; so often at most.
        detector_threshold: people below this score are not looked at. detector_nms: IoU above which the lower
            of two boxes goes (sides counted as x2 - x1 + 1).
        pose_nms: OKS above which one of two poses goes: the one with fewer valid keypoints.
        prefer_known: of somebody known and somebody new the new one goes, whatever their keypoints. What is
            found beside a blackened person is often a rest of it, with a worse box.
        compare_larger: two poses are compared by the scale of the larger person. Of somebody who is known a head
            or a leg may be left beside the black; its few sure keypoints are those of the known one, but for
            a box so small they seem far off.
        least_quality: who is found from the second pass on with a lower mean confidence of its keypoints is dropped:
            rests of people painted black, an arm or a shadow, have no pose that a good model believes. 0: off.
        confidence, visibility: a keypoint is *valid* above both; visibility also admits prompt points.
        selection: which keypoints become prompt points (`prompts.select`).
        positives, positives_if_crowd, negatives: how many points on the person, also if it overlaps another
            by more than ``crowd_iou`` (None: nobody is a crowd), and on its neighbours.
        prompt_box, extend_box: send the box, united with the points' own if it is extended.
        prompt_mask, prompt_maps, prompt_neighbours: send the detector's mask, the probability maps, the people
            close by (for segmenters that use them).
        crop: encode each person's box, half as large again, by itself (with ``prompt_box``).
        together: all people of a pass in one call, with as many points each; else one by one.
        exclusive: every pixel to at most one person.
        consistency_choice: of the detector's and the refined mask the one that fits the pose better.
        min_box_area: px^2; smaller people keep the detector's mask. 0: off.

        min_box_height: px; smaller people keep the detector's mask, which is right for them. 0: off.
        skip_settled: people whose masks did not change are not segmented or estimated again: by ``repose`` those
            whose mask the last step left as it was, by ``together`` all who are known.
        stop_when_settled: a pass that brings nobody new is the last.
        seconds: no further pass begins after this time. None: no limit.
        repose: estimate again with the refined masks, so often in a pass; segment after each (BMP v2+). Not for
            people who are too small to be refined.
        score_consistency: tell, for each person, how well mask and pose agree (``consistency.scored``).
        parity: quirks of the published loop to repeat.
    """

    name: str = "custom"
    passes: int = 2
    detector_threshold: float = 0.3
    detector_nms: float = 0.3
    pose_nms: float = 0.8
    prefer_known: bool = False
    compare_larger: bool = False
    least_quality: float = 0.0
    confidence: float = 0.5
    visibility: float = 0.5
    selection: Selection = "k_most_visible"
    positives: int = 3
    positives_if_crowd: int = 3
    negatives: int = 0
    crowd_iou: float | None = None
    prompt_box: bool = False
    extend_box: bool = False
    prompt_mask: bool = False
    prompt_maps: bool = False
    prompt_neighbours: bool = False
    crop: bool = False
    together: bool = False
    exclusive: bool = True
    consistency_choice: bool = False
    min_box_area: float = 0.0
    min_box_height: float = 0.0
    skip_settled: bool = False
    stop_when_settled: bool = False
    seconds: float | None = None
    repose: int = 0
    score_consistency: bool = False
    parity: Parity = Parity()

    def __post_init__(self) -> None:
        whole = {
            "passes": (1, 100),
            "positives": (0, 1000),
            "positives_if_crowd": (0, 1000),
            "negatives": (0, 1000),
            "repose": (0, 10),
        }
        for name, (low, high) in whole.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"loop: {name} must be a whole number in {low}..{high}, got {value!r}")
        for name in (
            "detector_threshold",
            "detector_nms",
            "pose_nms",
            "least_quality",
            "confidence",
            "visibility",
        ):
            self._number(name, 0, 1)
        if self.crowd_iou is not None:
            self._number("crowd_iou", 0, 1)
        self._number("min_box_area", 0, 1e12)
        self._number("min_box_height", 0, 1e6)
        if self.seconds is not None:
            self._number("seconds", 0, 1e6)
        if self.selection not in SELECTIONS:
            raise ConfigError(
                f"loop: selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}"
            )
        for f in fields(self):
            if f.type == "bool" and not isinstance(getattr(self, f.name), bool):
                raise ConfigError(f"loop: {f.name} must be True or False, got {getattr(self, f.name)!r}")
        if not isinstance(self.parity, Parity):
            raise ConfigError(f"loop: parity must be a Parity, got {self.parity!r}")
        if self.crop and not self.prompt_box:
            raise ConfigError("loop: crop needs prompt_box, the box is what is cut out")
        if self.crop and (self.prompt_mask or self.prompt_maps or self.prompt_neighbours):
            raise ConfigError("loop: crop sends points and box; leave out prompt_mask, _maps and _neighbours")

    def changed(self, **changes: object) -> LoopConfig:
        """The same configuration with other values.

        Raises:
            ConfigError: a name that is no field (the nearest is named), or a value out of range.
        """
        known = [f.name for f in fields(self)]
        unknown = next((n for n in changes if n not in known), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"loop: no field {unknown!r}; did you mean {near!r}?")
        return replace(self, **changes)  # type: ignore[arg-type]  # checked by __post_init__

    def _number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"loop: {name} must be a number in {low:g}..{high:g}, got {value!r}")


BMP_V2 = LoopConfig("bmp-v2")
BMP_D3 = LoopConfig(
    "bmp-d3",
    confidence=0.3,
    visibility=0.3,
    selection="distance+confidence",
    positives=6,
    positives_if_crowd=6,
)
BMP_J1 = LoopConfig(
    "bmp-j1",
    selection="distance+confidence",
    positives=4,
    positives_if_crowd=6,
    crowd_iou=0.5,
    together=True,
)
BMP_N = LoopConfig(
    "bmp-n",
    detector_threshold=0.4,  # the card's of rtmdet-ins-n: as many right as can be without as many wrong
    prefer_known=True,
    compare_larger=True,
    least_quality=0.45,  # on crowds of training photos all who were right had more
    prompt_box=True,
    prompt_mask=True,
    prompt_maps=True,
    prompt_neighbours=True,
    min_box_height=32,
    skip_settled=True,
    stop_when_settled=True,
    score_consistency=True,
)
CONFIGS = {c.name: c for c in (BMP_D3, BMP_J1, BMP_V2, BMP_N)}


def find_config(name: str) -> LoopConfig:
    """A configuration by its name, in any case, with - or _.

    Raises:
        ConfigError: an unknown name; the nearest known one is named.
    """
    plain = str(name).strip().lower().replace("_", "-")
    if plain not in CONFIGS:
        near = difflib.get_close_matches(plain, CONFIGS, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise ConfigError(f"unknown pipeline {str(name)[:60]!r}{hint} known are {', '.join(CONFIGS)}")
    return CONFIGS[plain]
