"""Switches that repeat what the published implementation does where bodyloop does otherwise.

All are off by default. They exist so that published numbers can be reproduced; a switch repeats numbers,
never a crash.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parity:
    """One switch a quirk.

    Attributes:
        mask_detour: masks are drawn anew from their outer contours: holes are filled, specks and a rim lost.
        unbounded_dark_step: the DARK-UDP decoder's sub-pixel step may have any length.
        opencv4_warp: crops by the fixed-point arithmetic of OpenCV 4, whatever OpenCV is installed.
    """

    mask_detour: bool = False
    unbounded_dark_step: bool = False
    opencv4_warp: bool = False


NONE = Parity()
REFERENCE = Parity(mask_detour=True, unbounded_dark_step=True, opencv4_warp=True)
