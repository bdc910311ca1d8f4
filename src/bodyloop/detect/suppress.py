"""Non-maximum suppression of boxes; defined in `bodyloop.geometry`, as the loop needs it, too."""

from bodyloop.geometry import suppress

__all__ = ["suppress"]
