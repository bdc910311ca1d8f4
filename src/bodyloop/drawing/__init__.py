"""Drawing: people over their photo, sheets of several pictures, and moving ones.

`draw` shows what is known of People and filters nothing: skeletons whose joints tell certain, hidden and
absent apart, keypoints outside the photo on a sheet that grows, maps, regions, ellipses, masks, boxes.
`contact_sheet`, `strip` and `animate` put pictures together. Only looks are decided here; numbers come from
`bodyloop.people` and `bodyloop.maps`. OpenCV and Pillow are imported when something is drawn.
"""

from __future__ import annotations

from bodyloop.drawing.picture import Picture
from bodyloop.drawing.scene import draw
from bodyloop.drawing.sheets import animate, contact_sheet, strip
from bodyloop.drawing.style import Style

__all__ = ["Picture", "Style", "animate", "contact_sheet", "draw", "strip"]
