"""The authors' own classes over bodyloop's models: change the import, keep the rest of the code.

Arrays are BGR as OpenCV reads them; arguments and return values are those of the published packages, and
their numbers are repeated (`bodyloop.pose.parity`). Where the published call raises or returns nothing by
mistake, these classes return what was meant.
"""

from __future__ import annotations

from bodyloop.compat.bboxmaskpose import BBoxMaskPose
from bodyloop.compat.pmpose import PMPose

__all__ = ["BBoxMaskPose", "PMPose"]
