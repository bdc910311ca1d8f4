"""What the loop tells about itself: each pass with what went in and what came out, for pictures and for doubts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Prompt

Ints = npt.NDArray[np.int64]
Ending = Literal["passes", "settled", "time"]
SAME_POSE = "in the same pose as"  # begins what is said of somebody who lost to another


@dataclass(frozen=True, eq=False, repr=False)
class Pass:
    """One pass over a picture. All People are of that picture, in its px.

    Attributes:
        number: from 1.
        masked_out: masks painted black before the detector looked; of nobody in the first pass.
        detected: what the detector found (or was given), after threshold and box NMS, with its own masks.
        posed: the same people, same order, with keypoints; the histories of those who lost say why.
        kept: (M,) indices into ``posed`` of the people that pose NMS left; the others are somebody known already
            or somebody else of this pass.
        dropped_known: (D,) indices into the people known before this pass that lost against somebody new.
        prompts: M prompts, one for each person kept, as the segmenter got them; None for a person that was not
            sent to it.
        refined: the M people kept, with their refined masks and mask scores.
        people: everybody known after this pass.
        seconds: time of "detect", "pose", "segment" and "loop", the loop's own.
    """

    number: int
    masked_out: Masks
    detected: People
    posed: People
    kept: Ints
    dropped_known: Ints
    prompts: tuple[Prompt | None, ...]
    refined: People
    people: People
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = f"{len(self.detected)} found, {len(self.kept)} new, {len(self.people)} known"
        return f"Pass({self.number}: {found}, {sum(self.seconds.values()):.2f} s)"


@dataclass(frozen=True, eq=False, repr=False)
class LoopResult:
    """The people of a picture and how they were found.

    Attributes:
        people: as `BodyLoop.predict` returns them.
        passes: one entry a pass that was begun.
        ended: why there was no further pass: all were made, nobody new was found, or time was up.
        dropped: everybody who lost to somebody else in the same pose, in any pass; their histories say to whom.
            None: nobody.
    """

    people: People
    passes: tuple[Pass, ...]
    ended: Ending
    dropped: People | None = None

    def __repr__(self) -> str:
        return f"LoopResult({len(self.people)} people, {len(self.passes)} passes, ended: {self.ended})"
