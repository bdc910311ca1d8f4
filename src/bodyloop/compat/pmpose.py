"""`PMPose` as its authors call it: picture, boxes, masks in; keypoints, presence, visibility, maps out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.people import People
from bodyloop.pose.estimator import PoseModel
from bodyloop.pose.parity import REFERENCE, Parity

Floats = npt.NDArray[np.float32]
Picture = str | os.PathLike[str] | npt.NDArray[np.uint8]


class PMPose:
    """A PMPose or MaskPose model with the published interface.

    Args:
        device: "cpu", "cuda", ...
        variant: "PMPose-s", "-b", "-l", "-h", "MaskPose-b", ...
        from_pretrained: fetch the published weights; False needs ``checkpoint`` or ``model``.
        checkpoint: a weight file of that variant instead.
        model: a bodyloop model instead of all of these.
        parity: which of the published implementation's peculiarities to repeat; all by default.

    Raises:
        ModelError, FileError, MissingDependency: as `bodyloop.load_pose`.
    """

    def __init__(
        self,
        device: str = "cpu",
        variant: str = "PMPose-b",
        from_pretrained: bool = True,
        *,
        checkpoint: str | Path | None = None,
        model: PoseModel | None = None,
        parity: Parity = REFERENCE,
    ) -> None:
        if model is None:
            model = _load(device, variant, from_pretrained, checkpoint)
        self.model = model.with_options(parity=parity)

    def predict(
        self,
        image: Picture,
        bboxes: npt.ArrayLike,
        masks: npt.ArrayLike | None = None,
        return_probmaps: bool = False,
    ) -> tuple[Floats, Floats, Floats, Floats | None]:
        """Poses in one picture, with the flip test.

        Args:
            image: a path or a BGR array (H, W, 3) uint8.
            bboxes: (N, 4) ``x1 y1 x2 y2`` in px.
            masks: (N, H, W), or (H, W) of the only person; None or an empty mask leaves the picture as it is.
            return_probmaps: return the maps, too.

        Returns:
            keypoints (N, K, 3): x, y in px and the score (predicted quality; of MaskPose the map's value),
            presence (N, K, 1) and visibility (N, K, 1) (of MaskPose the scores again),
            maps (N, K, 64, 48), averaged over the flip test, or None.
        """
        people = self._people(image, bboxes, masks, maps=return_probmaps)
        scores, points = people.keypoint_scores, people.keypoints
        assert points is not None and scores is not None  # the pose role always fills them
        keypoints = np.concatenate([points, scores[..., None]], axis=-1)
        presence = scores if people.presence is None else people.presence
        visibility = scores if people.visibility is None else people.visibility
        maps = None
        if return_probmaps:
            w, h = self.model.card.preprocess.map_size or (48, 64)
            none = np.zeros((0, points.shape[1], h, w), np.float32)
            maps = none if people.maps is None else people.maps.layers[0].values
        return keypoints, presence[..., None], visibility[..., None], maps

    def get_features(
        self, image: Picture, bboxes: npt.ArrayLike, masks: npt.ArrayLike | None = None
    ) -> Floats:
        """(N, D, 16, 12) feature maps of the backbone, of the plain crops."""
        people = self._people(image, bboxes, masks, features=True, flip=False)
        return np.zeros((0, 0, 16, 12), np.float32) if people.features is None else people.features

    def _people(
        self, image: Picture, bboxes: npt.ArrayLike, masks: npt.ArrayLike | None, **asked: Any
    ) -> People:
        boxes = np.asarray(bboxes, np.float32)
        bits = None if masks is None else _foreground(masks)
        people: People = self.model.predict(image, boxes, bits, order="bgr", **asked)
        return people


def _load(device: str, variant: str, from_pretrained: bool, checkpoint: str | Path | None) -> PoseModel:
    from bodyloop.api import load_pose

    name = variant.lower()
    if checkpoint is not None:
        return load_pose(checkpoint, card=name, device=device, detector=None)
    if not from_pretrained:
        raise InputError("from_pretrained=False leaves random weights: name a weight file as checkpoint=")
    return load_pose(name, device=device, detector=None)


def _foreground(masks: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(N, H, W) bool by the published rule: everything that is not 0 after scaling to bytes."""
    a = np.asarray(masks)
    if a.ndim == 2:
        a = a[None]
    if a.ndim != 3:
        raise InputError(f"masks: expected (N, H, W), (H, W) or None, got shape {a.shape}")
    return np.asarray(a * 255 >= 1 if a.dtype.kind == "f" else a != 0)
