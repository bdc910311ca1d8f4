"""Bodies in three dimensions: people handed over to SAM-3D-Body, its meshes as values, files and pictures.

SAM-3D-Body (Meta) is no dependency: `BodyMesher` calls the package ``sam_3d_body`` where it is installed, with its
own conventions (BGR, boxes x1 y1 x2 y2, masks 0 and 255), and gives a `BodyMesh` a person. Coordinates are metres
in the camera's frame: x right, y down, z away from the camera, whose axis goes through the middle of the picture.
What is drawn is left to `drawing.bodies`, which needs no graphics card.

Source: the calls of the published SAM-3D-Body demo and of BBoxMaskPose's adapter.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError, InputError, MissingDependency, ModelError
from bodyloop.geometry import as_boxes
from bodyloop.images import Image, as_image
from bodyloop.people import People
from bodyloop.skeletons import COCO
from bodyloop.storage import atomic_write

Floats = npt.NDArray[np.float32]
Inference = Literal["full", "body", "hand"]

REPOSITORY = "facebook/sam-3d-body-dinov3"
INSTALL = (
    "SAM-3D-Body is not installed. pip install 'git+https://github.com/facebookresearch/sam-3d-body', ask for its "
    f"weights at huggingface.co/{REPOSITORY}, then: hf auth login"
)
HAND_OVER = "its keypoints argument is in the fork github.com/MiraPurkrabek/sam-3d-body"


@dataclass(frozen=True, eq=False)
class BodyMesh:
    """One person's body.

    Attributes:
        image_size: (width, height) of the picture.
        vertices: (V, 3) float32 m in the camera's frame: x right, y down, z away from the camera.
        faces: (F, 3) int64 indices of vertices.
        joints: (J, 2) float32 px of the picture, the model's own joints.
        joints_3d: (J, 3) float32 m in the camera's frame, where the model tells them.
        focal_length: px.
        box: (4,) float32 ``x1 y1 x2 y2`` px.
        hands: boxes (4,) px of the left and the right hand, where the model looked at them.
    """

    image_size: tuple[int, int]
    vertices: Floats
    faces: npt.NDArray[np.int64]
    joints: Floats
    joints_3d: Floats | None
    focal_length: float
    box: Floats
    hands: tuple[Floats | None, Floats | None] = (None, None)

    def project(self, points: Floats | None = None) -> Floats:
        """Points (P, 3) m (the vertices, by default) in the picture, (P, 2) px; NaN behind the camera."""
        p = self.vertices if points is None else np.asarray(points, np.float32)
        depth = np.where(p[:, 2:] > 0, p[:, 2:], np.nan)
        return np.asarray(p[:, :2] * self.focal_length / depth + np.array(self.image_size) / 2, np.float32)


class Estimator(Protocol):
    """What is asked of ``sam_3d_body.SAM3DBodyEstimator``."""

    faces: Any

    def process_one_image(self, image: npt.NDArray[np.uint8], **how: Any) -> Sequence[Mapping[str, Any]]:
        """One dictionary a person."""
        ...


class BodyMesher:
    """Meshes of people by SAM-3D-Body.

    Args:
        estimator: a ``SAM3DBodyEstimator``; `load` makes one.
    """

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        mhr: str | os.PathLike[str] | None = None,
        repository: str = REPOSITORY,
        device: str = "cpu",
        fov_estimator: object | None = None,
    ) -> BodyMesher:
        """Load the model.

        Args:
            checkpoint: a file with the body model's file ``mhr`` beside it; None: from the hub's repository.
            device: where it runs.
            fov_estimator: the package's estimator of the field of view; None: its default field.

        Raises:
            MissingDependency: the package is not installed; the message says how.
            FileError: a file is missing. InputError: a checkpoint without ``mhr``.
        """
        try:
            package: Any = importlib.import_module("sam_3d_body")
        except ImportError as e:
            raise MissingDependency(f"{INSTALL} ({e})") from e
        if checkpoint is None:
            model, config = package.load_sam_3d_body_hf(repository, device=device)
        else:
            if mhr is None:
                raise InputError(f"{os.fspath(checkpoint)}: name the body model's file, too (mhr=...)")
            for file in (checkpoint, mhr):
                if not Path(file).is_file():
                    raise FileError(f"{os.fspath(file)}: no such file")
            model, config = package.load_sam_3d_body(
                os.fspath(checkpoint), device=device, mhr_path=os.fspath(mhr)
            )
        return cls(
            package.SAM3DBodyEstimator(
                sam_3d_body_model=model, model_cfg=config, human_detector=None, human_segmentor=None,
                fov_estimator=fov_estimator,
            )
        )  # fmt: skip

    def meshes(
        self,
        image: Any,
        people: People,
        *,
        masks: bool = True,
        keypoints: bool = False,
        inference: Inference = "full",
    ) -> list[BodyMesh]:
        """The bodies of people in a picture, in their order; nobody gives an empty list.

        Args:
            image: a path, an array (H, W, 3) uint8 RGB or an `Image`.
            people: with boxes or masks.
            masks: hand over their masks, if they have any; whoever has none gets the whole box.
            keypoints: hand over COCO's 17 keypoints, too (by name; needs the authors' fork).
            inference: "full", or only "body" or "hand".

        Raises:
            InputError: people without boxes and masks, or without keypoints where they are wanted.
            MissingDependency: the installed package takes no keypoints.
            ModelError: the package answers in another way than it is known to.
        """
        picture: Image = as_image(image)
        if people.image_size != picture.size:
            raise InputError(
                f"people in a picture of {people.image_size}, this one has {picture.size} (w, h)"
            )
        if inference not in ("full", "body", "hand"):
            raise InputError(f"inference must be 'full', 'body' or 'hand', got {inference!r}")
        if not len(people):
            return []
        boxes = _boxes(people)
        bitmaps = _bitmaps(people, boxes) if masks and people.masks is not None else None
        how: dict[str, Any] = {"bboxes": boxes, "masks": bitmaps, "use_mask": bitmaps is not None}
        if keypoints:
            self._refuse_without_keypoints()
            how["keypoints"] = _triples(people)
        bgr = np.ascontiguousarray(picture.pixels[:, :, ::-1])
        found = self.estimator.process_one_image(
            bgr, bbox_thr=0.5, nms_thr=0.3, inference_type=inference, **how
        )
        if len(found) != len(people):
            raise ModelError(f"SAM-3D-Body: asked about {len(people)} people, it answers about {len(found)}")
        faces = _array(self.estimator.faces, "faces", 3).astype(np.int64)
        return [_mesh(one, faces, picture.size, box) for one, box in zip(found, boxes, strict=True)]

    def _refuse_without_keypoints(self) -> None:
        taken = inspect.signature(self.estimator.process_one_image).parameters.values()
        if not any(p.name == "keypoints" or p.kind is inspect.Parameter.VAR_KEYWORD for p in taken):
            raise MissingDependency(f"the installed SAM-3D-Body takes no keypoints; {HAND_OVER}")


def _boxes(people: People) -> Floats:
    """(N, 4), around the masks where there are no boxes."""
    boxes = people.boxes
    if boxes is None and people.masks is not None:
        boxes = people.masks.boxes
    if boxes is None:
        raise InputError("meshes need people with boxes or masks")
    return as_boxes(boxes, "boxes of the people")


def _bitmaps(people: People, boxes: Floats) -> npt.NDArray[np.uint8]:
    """(N, H, W) 0 or 255; the box where there is no mask."""
    assert people.masks is not None
    out = people.masks.bitmaps().astype(np.uint8) * 255
    for i in np.flatnonzero(~people.masks.present).tolist():
        x1, y1, x2, y2 = np.rint(np.maximum(boxes[i], 0)).astype(int).tolist()
        out[i, y1:y2, x1:x2] = 255
    return out


def _triples(people: People) -> Floats:
    """(N, 17, 3) x, y, score in COCO's order; 0, 0, 0 for what is not there."""
    if people.keypoints is None or people.skeleton is None:
        raise InputError("keypoints=True: these people have none; estimate their pose first")
    known = people.in_skeleton(COCO)
    assert known.keypoints is not None
    scores = known.keypoint_scores
    third = np.ones(known.keypoints.shape[:2], np.float32) if scores is None else scores
    table = np.concatenate([known.keypoints, third[..., None]], axis=2).astype(np.float32)
    table[~np.isfinite(table).all(axis=2)] = 0
    return table


def _array(value: object, field: str, columns: int, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
    """An array (n, columns), or of ``shape``, of finite numbers; of tensors their values."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    a = np.asarray(value)
    fits = a.ndim == 2 and a.shape[1] == columns if shape is None else a.shape == shape
    if not fits or a.dtype.kind not in "fiu" or not np.isfinite(a).all():
        wanted = f"(n, {columns})" if shape is None else shape
        raise ModelError(
            f"SAM-3D-Body: {field} should be finite numbers {wanted}, got {a.dtype} {a.shape}; is it another version?"
        )
    return a


def _mesh(
    one: Mapping[str, Any], faces: npt.NDArray[np.int64], size: tuple[int, int], box: Floats
) -> BodyMesh:
    missing = [
        k for k in ("pred_vertices", "pred_cam_t", "pred_keypoints_2d", "focal_length") if k not in one
    ]
    if missing:
        raise ModelError(f"SAM-3D-Body: its answer lacks {', '.join(missing)}; is it another version?")
    away = _array(one["pred_cam_t"], "pred_cam_t", 3, (3,)).astype(np.float32)
    vertices = _array(one["pred_vertices"], "pred_vertices", 3).astype(np.float32) + away
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ModelError(f"SAM-3D-Body: faces name vertices up to {faces.max()}, there are {len(vertices)}")
    focal = float(np.asarray(_plain(one["focal_length"])).reshape(-1)[0])
    joints = one.get("pred_keypoints_3d")
    hands = tuple(
        None if one.get(k) is None else _array(one[k], k, 4, (4,)).astype(np.float32)
        for k in ("lhand_bbox", "rhand_bbox")
    )
    return BodyMesh(
        image_size=size,
        vertices=vertices,
        faces=faces,
        joints=_array(one["pred_keypoints_2d"], "pred_keypoints_2d", 2).astype(np.float32),
        joints_3d=None
        if joints is None
        else _array(joints, "pred_keypoints_3d", 3).astype(np.float32) + away,
        focal_length=focal,
        box=box,
        hands=(hands[0], hands[1]),
    )


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


# ------------------------------------------------------------------ files


def save_meshes(meshes: Sequence[BodyMesh], path: str | os.PathLike[str]) -> Path:
    """Write bodies as ``.obj`` (text) or ``.glb``, whole or not at all, each an object of its own.

    As viewers expect it, y points up and z towards the camera; unit m.

    Raises:
        FileError: another ending, or the file cannot be written. InputError: no bodies.
        MissingDependency: ``.glb`` without trimesh.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in (".obj", ".glb"):
        raise FileError(f"{target}: bodies are saved as .obj or .glb; give one of these endings")
    if not meshes:
        raise InputError(f"{target}: no bodies to save")
    data = _obj(meshes).encode() if kind == ".obj" else _glb(meshes)
    with atomic_write(target) as file:
        file.write(data)
    return target


UP = np.array([1, -1, -1], np.float32)  # turns the camera's frame half round its x axis


def _obj(meshes: Sequence[BodyMesh]) -> str:
    lines, before = ["# bodyloop: y up, z towards the camera, m"], 1
    for i, mesh in enumerate(meshes):
        lines.append(f"o person_{i}")
        lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in (mesh.vertices * UP).tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + before).tolist()]
        before += len(mesh.vertices)
    return "\n".join(lines) + "\n"


def _glb(meshes: Sequence[BodyMesh]) -> bytes:
    try:
        import trimesh
    except ImportError as e:
        raise MissingDependency(
            f".glb files need {e.name}; pip install 'bodyloop[mesh]', or save .obj"
        ) from e
    scene: Any = trimesh.Scene()
    for i, mesh in enumerate(meshes):
        body = trimesh.Trimesh(mesh.vertices * UP, mesh.faces, process=False)
        scene.add_geometry(body, node_name=f"person_{i}", geom_name=f"person_{i}")
    return bytes(scene.export(file_type="glb"))
