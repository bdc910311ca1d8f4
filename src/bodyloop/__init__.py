"""bodyloop: a photo goes in, people with honest poses come out.

>>> import bodyloop as bl
>>> people = bl.predict("photo.jpg")  # doctest: +SKIP

The names below are loaded when they are first used (PEP 562), so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bodyloop.api import load_detector as load_detector
    from bodyloop.api import load_pipeline as load_pipeline
    from bodyloop.api import load_pose as load_pose
    from bodyloop.api import load_segmenter as load_segmenter
    from bodyloop.api import predict as predict
    from bodyloop.api import stream as stream
    from bodyloop.drawing import draw as draw
    from bodyloop.drawing import draw_loop as draw_loop
    from bodyloop.errors import BodyloopError as BodyloopError
    from bodyloop.images import Image as Image
    from bodyloop.images import Source as Source
    from bodyloop.images import read as read
    from bodyloop.loop import BodyLoop as BodyLoop
    from bodyloop.masks import Masks as Masks
    from bodyloop.people import People as People
    from bodyloop.skeletons import AIC_14 as AIC_14
    from bodyloop.skeletons import BODY_19 as BODY_19
    from bodyloop.skeletons import COCO as COCO
    from bodyloop.skeletons import COCO_WHOLEBODY_133 as COCO_WHOLEBODY_133
    from bodyloop.skeletons import CROWDPOSE_14 as CROWDPOSE_14
    from bodyloop.skeletons import HALPE_136 as HALPE_136
    from bodyloop.skeletons import LSP_14 as LSP_14
    from bodyloop.skeletons import MERGED_21 as MERGED_21
    from bodyloop.skeletons import MERGED_23 as MERGED_23
    from bodyloop.skeletons import MERGED_41 as MERGED_41
    from bodyloop.skeletons import MPII_16 as MPII_16
    from bodyloop.skeletons import OCHUMAN_19 as OCHUMAN_19
    from bodyloop.skeletons import SKELETONS as SKELETONS
    from bodyloop.skeletons import Skeleton as Skeleton
    from bodyloop.skeletons import load_skeleton as load_skeleton

__version__ = "0.1.0"

_HOME = {
    "predict": "api",
    "stream": "api",
    "load_pose": "api",
    "load_detector": "api",
    "load_segmenter": "api",
    "load_pipeline": "api",
    "BodyLoop": "loop",
    "draw": "drawing",
    "draw_loop": "drawing",
    "read": "images",
    "Image": "images",
    "Source": "images",
    "Masks": "masks",
    "People": "people",
    "Skeleton": "skeletons",
    "COCO": "skeletons",
    "BODY_19": "skeletons",
    "AIC_14": "skeletons",
    "COCO_WHOLEBODY_133": "skeletons",
    "CROWDPOSE_14": "skeletons",
    "HALPE_136": "skeletons",
    "LSP_14": "skeletons",
    "MERGED_21": "skeletons",
    "MERGED_23": "skeletons",
    "MERGED_41": "skeletons",
    "MPII_16": "skeletons",
    "OCHUMAN_19": "skeletons",
    "SKELETONS": "skeletons",
    "load_skeleton": "skeletons",
    "BodyloopError": "errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bodyloop' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bodyloop.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
