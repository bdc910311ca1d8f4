"""Switches that repeat what the published implementation does where bodyloop does otherwise.

All are off by default. They exist so that published numbers can be reproduced; a switch repeats numbers, never
a crash. Section numbers are those of the reference description in the parity fixtures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parity:
    """One switch a quirk.

    Attributes:
        mask_detour: bitmap masks are drawn anew from their outer contours (2.4): holes are filled, specks and a
            rim are lost.
        unbounded_dark_step: the DARK-UDP decoder's sub-pixel step may be any length (6.2).
        opencv4_warp: crops by the fixed-point arithmetic of OpenCV 4 (2.6), whatever OpenCV is installed.
    """

    mask_detour: bool = False
    unbounded_dark_step: bool = False
    opencv4_warp: bool = False


NONE = Parity()
REFERENCE = Parity(mask_detour=True, unbounded_dark_step=True, opencv4_warp=True)
