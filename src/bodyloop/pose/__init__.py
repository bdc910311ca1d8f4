"""The pose role: crops out of pictures, a network, decoded keypoints back in the picture."""

from __future__ import annotations
