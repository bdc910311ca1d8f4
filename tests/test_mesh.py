"""The hand-over to SAM-3D-Body, against a stand-in package that holds callers to the contract, and its meshes."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.drawing.bodies import draw_bodies, draw_from_side, pastel
from bodyloop.errors import FileError, InputError, MissingDependency, ModelError
from bodyloop.masks import Masks
from bodyloop.mesh import BodyMesh, BodyMesher, save_meshes
from bodyloop.people import People
from bodyloop.skeletons import BODY_19, COCO

SIZE = (60, 40)
CUBE = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32)
FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
        [1, 5, 7], [1, 7, 3],
    ]
)  # fmt: skip


class Published:
    """As the published estimator is called; it refuses whatever is not as it should be."""

    def __init__(
        self, sam_3d_body_model: Any, model_cfg: Any, human_detector: Any, human_segmentor: Any, fov_estimator: Any
    ) -> None:  # fmt: skip
        assert (sam_3d_body_model, model_cfg) == ("model", "config")
        assert human_detector is human_segmentor is None
        self.faces = FACES
        self.asked: dict[str, Any] = {}
        self.changed: dict[str, Any] = {}

    def process_one_image(
        self, image: Any, bboxes: Any, masks: Any, bbox_thr: float, nms_thr: float, use_mask: bool, inference_type: str
    ) -> list[dict[str, Any]]:  # fmt: skip
        n = len(bboxes)
        assert image.dtype == np.uint8 and image.shape == (40, 60, 3) and image.flags.c_contiguous
        assert bboxes.dtype == np.float32 and bboxes.shape == (n, 4) and (bboxes[:, 2:] > bboxes[:, :2]).all()
        assert use_mask == (masks is not None) and inference_type in ("full", "body", "hand")
        if masks is not None:
            assert (
                masks.dtype == np.uint8 and masks.shape == (n, 40, 60) and set(np.unique(masks)) <= {0, 255}
            )
        self.asked = {"image": image, "bboxes": bboxes, "masks": masks, "type": inference_type}
        one = {
            "pred_vertices": CUBE, "pred_cam_t": np.array([0.5, 0, 4], np.float32), "focal_length": np.float32(50),
            "pred_keypoints_2d": np.full((70, 2), 3.0), "bbox": bboxes[0], "lhand_bbox": np.array([1.0, 2, 3, 4]),
        }  # fmt: skip
        return [{**one, **self.changed} for _ in range(n)]


class Fork(Published):
    """The authors' fork, which takes keypoints."""

    def process_one_image(self, image: Any, *, keypoints: Any = None, **how: Any) -> Any:  # type: ignore[override]
        found = super().process_one_image(image, **how)
        if keypoints is not None:
            assert keypoints.dtype == np.float32 and keypoints.shape == (len(found), 17, 3)
            assert np.isfinite(keypoints).all()
        self.asked["keypoints"] = keypoints
        return found


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module: Any = types.ModuleType("sam_3d_body")
    module.SAM3DBodyEstimator = Fork
    module.load_sam_3d_body_hf = lambda repository, device: ("model", "config")
    module.load_sam_3d_body = lambda checkpoint, device, mhr_path: ("model", "config")
    monkeypatch.setitem(sys.modules, "sam_3d_body", module)
    return module


def people(**more: Any) -> People:
    boxes = np.array([[5, 5, 20, 35], [30, 2, 50.5, 38]], np.float32)
    return People(SIZE, boxes=boxes, **more)


def photo() -> np.ndarray:
    return np.full((40, 60, 3), (250, 10, 20), np.uint8)


@pytest.mark.usefixtures("package")
def test_what_goes_over_and_what_comes_back() -> None:
    mask = np.zeros((40, 60), bool)
    mask[6:30, 6:15] = True
    points = np.arange(2 * 19 * 2, dtype=np.float32).reshape(2, 19, 2)
    points[1, 3] = np.nan
    who = people(
        masks=Masks.from_bitmaps([mask, None], SIZE), skeleton=BODY_19, keypoints=points,
        map_scores=np.full((2, 19), 0.5, np.float32),
    )  # fmt: skip
    mesher = BodyMesher.load()
    first, second = mesher.meshes(photo(), who, keypoints=True, inference="body")
    asked = mesher.estimator.asked  # type: ignore[attr-defined]
    assert asked["image"][0, 0].tolist() == [20, 10, 250] and asked["type"] == "body"  # BGR
    assert (asked["masks"][0] == mask * 255).all()
    box = np.zeros((40, 60), bool)
    box[2:38, 30:50] = True
    assert (asked["masks"][1] == box * 255).all()  # nobody's mask is the box
    at = [BODY_19.index(k) for k in COCO.keypoints]
    wanted = np.concatenate([points[:, at], np.full((2, 17, 1), 0.5)], axis=2)
    wanted[~np.isfinite(wanted).all(axis=2)] = 0
    assert np.array_equal(asked["keypoints"], wanted)
    assert first.vertices.dtype == np.float32 and first.vertices[0].tolist() == [0, -0.5, 3.5]
    assert first.joints.shape == (70, 2) and first.joints_3d is None and first.focal_length == 50
    assert first.hands[0] is not None and first.hands[0].tolist() == [1, 2, 3, 4] and first.hands[1] is None
    assert second.box.tolist() == [30, 2, 50.5, 38] and second.image_size == SIZE
    plain = mesher.meshes(photo(), who, masks=False)
    assert asked is not mesher.estimator.asked and len(plain) == 2  # type: ignore[attr-defined]
    assert mesher.estimator.asked["masks"] is None  # type: ignore[attr-defined]


@pytest.mark.usefixtures("package")
def test_nobody_and_people_who_lack_something() -> None:
    mesher = BodyMesher.load()
    assert mesher.meshes(photo(), People.empty(SIZE)) == []
    with pytest.raises(InputError, match="these people have none"):
        mesher.meshes(photo(), people(), keypoints=True)
    with pytest.raises(InputError, match="boxes or masks"):
        mesher.meshes(photo(), People(SIZE, scores=np.ones(1, np.float32)))
    with pytest.raises(InputError, match="picture of"):
        mesher.meshes(photo()[1:], people())
    with pytest.raises(InputError, match="'body' or 'hand'"):
        mesher.meshes(photo(), people(), inference="foot")  # type: ignore[arg-type]
    masks = Masks.from_bitmaps([np.pad(np.ones((4, 5)), ((3, 33), (10, 45)))])
    (only,) = mesher.meshes(photo(), People(SIZE, masks=masks))
    assert only.box.tolist() == [10, 3, 15, 7]


def test_a_package_that_is_missing_or_another(
    package: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package.SAM3DBodyEstimator = Published
    mesher = BodyMesher.load()
    assert len(mesher.meshes(photo(), people())) == 2
    who = people(skeleton=COCO, keypoints=np.ones((2, 17, 2), np.float32))
    with pytest.raises(MissingDependency, match=r"takes no keypoints.*fork"):
        mesher.meshes(photo(), who, keypoints=True)
    with pytest.raises(InputError, match="mhr"):
        BodyMesher.load("model.ckpt")
    with pytest.raises(FileError, match=r"nothing\.ckpt: no such file"):
        BodyMesher.load(tmp_path / "nothing.ckpt", mhr=tmp_path / "body.pt")
    for name in ("model.ckpt", "body.pt"):
        (tmp_path / name).write_bytes(b"")
    assert BodyMesher.load(tmp_path / "model.ckpt", mhr=tmp_path / "body.pt").estimator is not None
    broken: list[tuple[dict[str, Any], str]] = [
        ({"pred_vertices": CUBE[:, :2]}, r"pred_vertices should be finite numbers \(n, 3\)"),
        ({"pred_cam_t": np.array([0, np.nan, 4])}, "pred_cam_t should be finite"),
        ({"pred_vertices": CUBE[:7]}, "faces name vertices up to 7, there are 7"),
    ]
    for changed, said in broken:
        mesher.estimator.changed = changed  # type: ignore[attr-defined]
        with pytest.raises(ModelError, match=said):
            mesher.meshes(photo(), people())
    mesher.estimator.process_one_image = lambda *a, **k: [{}]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="asked about 2 people, it answers about 1"):
        mesher.meshes(photo(), people())
    mesher.estimator.process_one_image = lambda *a, **k: [{}, {}]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="lacks pred_vertices, pred_cam_t"):
        mesher.meshes(photo(), people())
    monkeypatch.setitem(sys.modules, "sam_3d_body", None)
    with pytest.raises(MissingDependency, match="pip install 'git"):
        BodyMesher.load()


def cube(x: float = 0.0, z: float = 4.5, faces: np.ndarray = FACES) -> BodyMesh:
    """One metre; its front is four metres away, 12.5 px wide."""
    return BodyMesh(
        SIZE, CUBE + np.array([x, 0, z], np.float32), faces, np.zeros((1, 2), np.float32), None, 50.0,
        np.zeros(4, np.float32),
    )  # fmt: skip


def test_projection_by_hand() -> None:
    points = np.array([[0.5, 0.5, 4], [0, 0, 2], [1, 0, -1]], np.float32)
    at = cube().project(points)
    assert at[:2].tolist() == [[36.25, 26.25], [30, 20]] and np.isnan(at[2]).all()
    assert cube().project().shape == (8, 2)


@pytest.mark.parametrize("faces", [FACES, FACES[:, ::-1]], ids=["anticlockwise", "clockwise"])
def test_over_the_picture(faces: np.ndarray) -> None:
    drawn = draw_bodies(photo(), [cube(faces=faces)]).pixels.astype(int)
    changed = (drawn != photo()).any(axis=2)
    y, x = np.nonzero(changed)
    assert (x.min(), x.max() + 1, y.min(), y.max() + 1) == pytest.approx(
        (23.75, 36.25, 13.75, 26.25), abs=1.01
    )
    front = drawn[16:25, 26:35].reshape(-1, 3)
    assert np.ptp(front, axis=0).max() <= 60  # lit smoothly
    assert (front.mean(axis=0) < np.array(pastel((79, 147, 245))) + 1).all() and front.mean() > 60
    assert (draw_bodies(photo(), [cube()], opacity=0).pixels == photo()).all()
    half = draw_bodies(photo(), [cube(faces=faces)], opacity=0.5).pixels[20, 30].astype(int)
    assert np.abs(half - (drawn[20, 30] + photo()[20, 30]) / 2).max() <= 1


def test_whoever_is_nearer_covers_the_others() -> None:
    """Two people whose cubes overlap in the picture, in either order of the list."""
    near, far = cube(0.0, 3.0), cube(1.6, 8.0)  # fronts at x 20 to 40 and 37 to 44 px

    def like(pixel: np.ndarray, colour: tuple[int, int, int]) -> float:
        a, b = pixel.astype(float), np.array(pastel(colour), float)
        return float(np.corrcoef(a, b)[0, 1])

    blue, amber = (79, 147, 245), (242, 183, 5)  # of the first and the second
    for bodies, (before, behind) in (([near, far], (blue, amber)), ([far, near], (amber, blue))):
        drawn = draw_bodies(photo(), bodies).pixels
        assert like(drawn[20, 30], before) > 0.9 and like(drawn[20, 38], before) > 0.9
        assert like(drawn[20, 42], behind) > 0.9
    assert (draw_bodies(photo(), [cube(0.0, -3.0)]).pixels == photo()).all()  # behind the camera


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(2, 9)), min_size=1, max_size=3), st.floats(-180, 180))
def test_from_the_side_everybody_is_in_the_picture(places: list[tuple[float, float]], degrees: float) -> None:
    drawn = draw_from_side([cube(x, z) for x, z in places], (50, 40), degrees=degrees).pixels
    paper = draw_from_side([], (50, 40)).pixels
    changed = (drawn != paper).any(axis=2)
    border = changed.copy()
    border[2:-2, 2:-2] = False
    assert changed.any() and not border.any()
    y, x = np.nonzero(changed)
    assert max(np.ptp(x) / 50, np.ptp(y) / 40) > 0.7  # and fills it


def test_files(tmp_path: Path) -> None:
    bodies = [cube(), cube(1.0)]
    text = save_meshes(bodies, tmp_path / "two.obj").read_text()
    rows = [line.split() for line in text.splitlines()]
    vertices = np.array([r[1:] for r in rows if r[0] == "v"], float)
    faces = np.array([r[1:] for r in rows if r[0] == "f"], int)
    assert vertices[:8] == pytest.approx(bodies[0].vertices * [1, -1, -1]) and len(vertices) == 16
    assert (faces[12:] == FACES + 9).all() and [r[1] for r in rows if r[0] == "o"] == ["person_0", "person_1"]
    for wrong in ("two.stl", "no/two.obj"):
        with pytest.raises(FileError, match="two"):
            save_meshes(bodies, tmp_path / wrong)
    with pytest.raises(InputError, match="no bodies"):
        save_meshes([], tmp_path / "none.obj")


def test_glb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimesh = pytest.importorskip("trimesh", reason="writes .glb files")
    back = trimesh.load(save_meshes([cube(), cube(1.0)], tmp_path / "two.glb"))
    assert set(back.geometry) == {"person_0", "person_1"}
    assert np.asarray(back.geometry["person_1"].vertices) == pytest.approx(cube(1.0).vertices * [1, -1, -1])
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MissingDependency, match=r"bodyloop\[mesh\]"):
        save_meshes([cube()], tmp_path / "one.glb")


def test_pictures_of_another_size() -> None:
    with pytest.raises(InputError, match="this one has"):
        draw_bodies(photo()[1:], [cube()])
    with pytest.raises(InputError, match="opacity"):
        draw_bodies(photo(), [cube()], opacity=2)
    with pytest.raises(InputError, match="at least 1"):
        draw_from_side([cube()], (0, 5))
