"""The loop over three roles: detect, estimate the pose, segment, mask out, again."""

from bodyloop.loop.config import BMP_D3, BMP_J1, BMP_N, BMP_V2, CONFIGS, LoopConfig, Parity, find_config
from bodyloop.loop.pipeline import BodyLoop, Failure
from bodyloop.loop.record import LoopResult, Pass

__all__ = [
    "BMP_D3",
    "BMP_J1",
    "BMP_N",
    "BMP_V2",
    "CONFIGS",
    "BodyLoop",
    "Failure",
    "LoopConfig",
    "LoopResult",
    "Parity",
    "Pass",
    "find_config",
]
