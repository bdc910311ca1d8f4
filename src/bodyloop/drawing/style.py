"""What a drawing looks like, apart from what is in it: one frozen value with literal numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from bodyloop.errors import ConfigError


@dataclass(frozen=True)
class Style:
    """Looks of a drawing.

    Attributes:
        colour_by: "person": every person has a hue, light on the left side and deep on the right;
            "side": everybody orange on the left and blue on the right.
        line, text: factors on line widths and text sizes, which otherwise follow person and picture.
        presence_at: a keypoint of lower presence looks absent (dashed). Even odds.
        visibility_at: a keypoint of lower visibility looks hidden (hollow). Even odds.
        score_at: where neither is known, a keypoint of a lower score looks hidden; the usual line for maps.
        mask_alpha: strength of a mask's fill in 0..1.
        map_alpha: strength of a probability map in 0..1.
        mute: how much the photo under a map loses colour and light, 0..1.
        reach: how far the sheet may grow to each side, in longer sides of the photo; what lies further out
            is shown by an arrow head at the rim.

    Raises:
        ConfigError: at construction, for a value out of range; it names the field.
    """

    colour_by: Literal["person", "side"] = "person"
    line: float = 1.0
    text: float = 1.0
    presence_at: float = 0.5
    visibility_at: float = 0.5
    score_at: float = 0.3
    mask_alpha: float = 0.30
    map_alpha: float = 0.85
    mute: float = 0.55
    reach: float = 0.75

    def __post_init__(self) -> None:
        if self.colour_by not in ("person", "side"):
            raise ConfigError(f"Style.colour_by must be 'person' or 'side', got {self.colour_by!r}")
        for f in fields(self)[1:]:
            value = getattr(self, f.name)
            top = {"line": 20.0, "text": 20.0, "reach": 4.0}.get(f.name, 1.0)
            low = 0.05 if f.name in ("line", "text") else 0.0
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= top:
                raise ConfigError(f"Style.{f.name} must be a number in {low:g}..{top:g}, got {value!r}")
