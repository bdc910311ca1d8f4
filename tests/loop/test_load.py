"""The loop by name: who plays, whom the caller puts in, and real models on a real photo."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import bodyloop as bl
from bodyloop import api
from bodyloop.errors import ConfigError, ModelError
from bodyloop.images import Image
from bodyloop.loop import BMP_N, BMP_V2, CONFIGS, BodyLoop, Parity
from bodyloop.models.registry import find_card
from bodyloop.pose.parity import NONE, REFERENCE
from bodyloop.roles import Prompt
from tests.loop.scene import Drawer, person
from tests.parity_loop.players import Discs, Finder, Poser

ROLES: dict[str, Any] = {"detector": Finder([]), "pose": Poser(person()), "segmenter": Discs()}


def ellipse(p: Prompt) -> tuple[Any, float]:
    """A mask about a box, in a picture of 448 x 336."""
    assert p.box is not None
    y, x = np.mgrid[:336, :448]
    x1, y1, x2, y2 = p.box
    return ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 < 0.25, 0.8


class TestNames:
    def test_any_role_injected(self) -> None:
        loop = bl.load_pipeline("BMP_V2", **ROLES)
        assert isinstance(loop, bl.BodyLoop) and isinstance(loop, BodyLoop) and loop.config is BMP_V2
        assert [loop.roles.detector, loop.roles.pose, loop.roles.segmenter] == list(ROLES.values())
        again = bl.load_pipeline("bmp-n", **ROLES, second_detector=ROLES["detector"])
        assert again.roles.second_detector is ROLES["detector"]

    def test_a_configuration_of_one_s_own(self) -> None:
        config = BMP_V2.changed(passes=4, name="mine")
        assert bl.load_pipeline(config, **ROLES).config is config

    def test_embedded_models_by_name(self) -> None:
        loop = bl.load_pipeline("bmp-n", detector="rtmdet-n", segmenter=Discs())
        assert "bmp-n: rtmdet-n, PoseModel(pmpose-n" in repr(loop)
        assert loop.roles.pose.options.maps  # type: ignore[attr-defined]  # as the configuration sends them
        own = bl.load_pipeline("bmp-v2", detector="rtmdet-n", pose="pmpose-n", segmenter=Discs())
        assert not own.roles.pose.options.maps  # type: ignore[attr-defined]
        given = bl.load_pose(detector=None)
        assert bl.load_pipeline(
            BMP_N, detector="rtmdet-n", pose=given, segmenter=Discs()
        ).roles.pose.options.maps  # type: ignore[attr-defined]

    def test_published(self) -> None:
        names: dict[str, Any] = {"detector": "rtmdet-n", "pose": "pmpose-n", "segmenter": Discs()}
        loop = bl.load_pipeline("bmp-v2", **names, published=True)
        assert loop.config.parity == Parity.published()
        assert loop.roles.pose.options.parity is REFERENCE  # type: ignore[attr-defined]
        assert loop.roles.detector.parity.clip_to_canvas  # type: ignore[attr-defined]
        ours = bl.load_pipeline("bmp-v2", **names)
        assert ours.config.parity == Parity() and ours.roles.pose.options.parity is NONE  # type: ignore[attr-defined]

    def test_every_configuration_has_its_models(self) -> None:
        assert api.PIPELINES.keys() == CONFIGS.keys()
        for name, models in api.PIPELINES.items():
            kinds = [find_card(m).kind for m in models if name != "bmp-n" or m == "pmpose-n"]
            assert kinds in (["detector", "pose", "segmenter"], ["pose"])

    def test_unknown(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'bmp-v2'"):
            bl.load_pipeline("bmp-v3")
        with pytest.raises(ModelError, match="rtmdet-x9"):
            bl.load_pipeline("bmp-n", detector="rtmdet-x9", segmenter=Discs())


def test_real_models_on_a_picture() -> None:
    """Detector and pose of the package: whatever is found has boxes, masks, poses, and the loop ends."""
    y, x = np.mgrid[:336, :448]
    light = (128 + 60 * np.sin(x / 17) + 50 * np.cos(y / 23)).astype(np.uint8)
    loop = bl.load_pipeline("bmp-n", detector="rtmdet-n", segmenter=Drawer(ellipse))
    boxes = [[60, 40, 180, 300], [220, 60, 330, 320]]
    result = loop.run(Image(np.repeat(light[..., None], 3, axis=2)), boxes)
    people = result.people
    assert people.skeleton is bl.BODY_19 and len(people) >= 2 and people.masks is not None
    assert people.masks.present[:2].all() and people.keypoints is not None
    assert {"consistency", "joints_in_own", "joints_in_others"} <= set(people.extra)
    sent = [p for p in result.passes[0].prompts if p is not None]
    assert all(p.maps is not None and p.maps.keypoint_count == 19 for p in sent)
    assert len(loop.roles.segmenter.encoded) == 1  # type: ignore[attr-defined]


def test_importing_the_loop_loads_nothing_heavy() -> None:
    code = (
        "import sys, bodyloop.loop; "
        "print([m for m in ('torch', 'cv2', 'onnxruntime', 'bodyloop.models', 'bodyloop.api') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
