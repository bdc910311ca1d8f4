"""Drawing: people over their photo, sheets of several pictures, and moving ones.

`draw` shows what is known of People and filters nothing: skeletons whose joints tell certain, hidden and
absent apart, keypoints outside the photo on a sheet that grows, maps, regions, ellipses, masks, boxes.
`contact_sheet`, `strip` and `animate` put pictures together; `draw_loop` shows a run of the loop step by step, as
sheet, moving picture or page. Only looks are decided here; numbers come from `bodyloop.people`, `bodyloop.maps` and
`bodyloop.loop.record`. OpenCV and Pillow are imported when something is drawn.
"""

from __future__ import annotations

from bodyloop.drawing.loop_drawing import LoopDrawing, draw_loop
from bodyloop.drawing.moving import animate
from bodyloop.drawing.picture import Picture
from bodyloop.drawing.scene import draw
from bodyloop.drawing.sheets import contact_sheet, strip
from bodyloop.drawing.style import Style

__all__ = [
    "LoopDrawing",
    "Picture",
    "Style",
    "animate",
    "contact_sheet",
    "draw",
    "draw_loop",
    "strip",
]
