"""The whole chain, from picture and boxes to keypoints in the picture, against the stored results.

Crops are made by the exact OpenCV-4 warp whatever OpenCV is installed. On these random weights a keypoint
whose maximum is nearly shared by another cell says nothing, and neither does, on plain maps, a peak that is
not positive or a sub-pixel step of several cells: such points are left out, and few.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs the extra bodyloop[torch]")

from bodyloop.engines.torch import TorchEngine  # noqa: E402
from bodyloop.models.build import build_network  # noqa: E402
from bodyloop.models.checkpoints import load_into  # noqa: E402
from bodyloop.models.export import pose_function  # noqa: E402
from bodyloop.models.registry import find_card  # noqa: E402
from bodyloop.people import People  # noqa: E402
from bodyloop.pose.estimator import PoseModel  # noqa: E402
from bodyloop.pose.parity import REFERENCE  # noqa: E402
from tests.parity.manifest import FIXTURES, compare, given  # noqa: E402
from tests.parity.weights import make_state, synthetic_image  # noqa: E402

ERROR_SCALE = 80  # the reference gives the error branch's output in map diagonals
PX, SCORE, MARGIN = 0.02, 1e-4, 0.01

CARDS = {
    "ProbPose-s": "probpose-s",
    "PMPose-s": "pmpose-s",
    "MaskPose-s": "maskpose-s",
    "MaskPose-s-wb": "maskpose-s-wb",
}


@cache
def model(name: str) -> PoseModel:
    card = find_card(CARDS[name])
    network = build_network(card, meta=True)
    load_into(network, make_state(FIXTURES / "keys" / f"{name}.json"))
    return PoseModel(TorchEngine(pose_function(network, card)), card)


def predicted(name: str, *, masks: bool, flip: bool) -> People:
    file = f"e2e_{name}.npz"
    bits = None
    if masks:
        shape = given(file, "masks_shape")
        bits = np.unpackbits(given(file, "masks_bits"))[: shape.prod()].reshape(shape)
    extra = () if name.startswith("MaskPose") else ("error",)
    return model(name).predict(
        synthetic_image(),
        given(file, "boxes"),
        bits,
        flip=flip,
        maps=True,
        extra=extra,
        order="bgr",
        parity=REFERENCE,
    )


def maps_of(people: People) -> npt.NDArray[np.float32]:
    assert people.maps is not None
    return people.maps.layers[0].values


PROBABILITY = [
    ("ProbPose-s", "flip_", False, True),
    ("ProbPose-s", "noflip_", False, False),
    *(
        ("PMPose-s", f"{'mask' if m else 'nomask'}_{'flip' if f else 'noflip'}_", m, f)
        for m in (True, False)
        for f in (True, False)
    ),
]


@pytest.mark.parametrize(
    "name,prefix,masks,flip", PROBABILITY, ids=[f"{n}-{p}" for n, p, _, _ in PROBABILITY]
)
def test_probability_models(name: str, prefix: str, masks: bool, flip: bool) -> None:
    file = f"e2e_{name}.npz"
    people = predicted(name, masks=masks, flip=flip)
    sure = given(file, prefix + "argmax_margin") > MARGIN
    if name == "ProbPose-s":
        sure = given(file, prefix + "conv_margin") > MARGIN
    assert sure.mean() > 0.75
    assert people.keypoints is not None and people.windows is not None
    compare(file, prefix + "keypoints", people.keypoints, PX, mask=sure[..., None])
    compare(file, prefix + "keypoints_conf", people.map_scores, SCORE, mask=sure)
    compare(file, prefix + "keypoint_scores", people.keypoint_scores, SCORE)
    compare(file, prefix + "keypoints_probs", people.presence, SCORE)
    compare(file, prefix + "keypoints_visible", people.visibility, SCORE)
    compare(file, prefix + "keypoints_oks", people.quality, SCORE)
    compare(file, prefix + "keypoints_error", people.extra["error"] / ERROR_SCALE, SCORE)
    compare(file, prefix + "maps_max", maps_of(people).max(axis=(2, 3)), SCORE)
    w = people.windows.astype(np.float64)
    compare(file, prefix + "center", (w[:, :2] + w[:, 2:]) / 2, 1e-4)
    compare(file, prefix + "scale", w[:, 2:] - w[:, :2], 1e-4)


@pytest.mark.parametrize("name", ["MaskPose-s", "MaskPose-s-wb"])
def test_plain_models(name: str) -> None:
    file = f"e2e_{name}.npz"
    people = predicted(name, masks=True, flip=True)
    maps = maps_of(people)
    compare(file, "maps_sub", maps[:, ::4, ::4, ::4], SCORE)
    assert people.keypoints is not None and people.map_scores is not None and people.windows is not None
    compare(file, "keypoint_scores", people.map_scores, SCORE)
    compare(
        file, "keypoints_visible", people.keypoint_scores, SCORE
    )  # of plain maps the reference says it twice
    peak = maps.max(axis=(2, 3))
    cell = maps.reshape(*maps.shape[:2], -1).argmax(axis=-1)
    at = np.stack([cell % maps.shape[3], cell // maps.shape[3]], axis=-1)
    window = people.windows[:, None]
    where = (people.keypoints - window[..., :2]) / (window[..., 2:] - window[..., :2]) * (47, 63)
    step = np.abs(where - at).max(axis=-1)
    sure = (given(file, "argmax_margin") > MARGIN) & (peak > 0) & (step <= 3)
    assert np.isnan(people.keypoints[peak <= 0]).all()
    assert sure.sum() >= 0.3 * sure.size
    compare(file, "keypoints", people.keypoints, PX, mask=sure[..., None])
