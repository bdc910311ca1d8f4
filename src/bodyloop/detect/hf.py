"""Any object detector of Hugging Face's `transformers` as a detector: RT-DETR, D-FINE, RF-DETR, DETR, YOLOS, ...

They all answer alike, with class logits and boxes relative to the picture for a fixed number of queries (some with
masks), so one adapter serves all. How pixels are prepared stands in the model's processor configuration and is done
here, without torchvision. A head of one class more than the labels has "nothing" as its last one and is read by
softmax, any other by sigmoid. Queries do not repeat each other, so nothing is suppressed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bodyloop.detect.instances import masks_in_photo
from bodyloop.detect.letterbox import Letterbox
from bodyloop.detect.rtmdet import check_threshold
from bodyloop.errors import ConfigError, FileError, InputError, MissingDependency, ModelError
from bodyloop.images import Image
from bodyloop.models.cards import IMAGENET_MEAN, IMAGENET_STD
from bodyloop.people import People

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]

PROCESSOR = "preprocessor_config.json"
SCORE_THRESHOLD = 0.3
BATCH = 4  # photos in one call, where they all have one size
LARGEST = 4096  # px of a side
_STRETCHED = (
    "rt_detr",
    "rt_detr_v2",
    "d_fine",
    "deimv2",
)  # 640 x 640 and values 0..1, if nothing else is said


@dataclass(frozen=True)
class Processor:
    """How a photo becomes pixels for the model.

    Attributes:
        size: (w, h) every photo is stretched to; None: proportions are kept.
        shortest, longest: px that the shorter side becomes unless the longer would exceed its own limit.
        scale: factor from 0..255. mean, std: after it.
        resample: Pillow's number of the filter.
    """

    size: tuple[int, int] | None = None
    shortest: int = 800
    longest: int = 1333
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resample: int = 2

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Processor:
        """From a processor's configuration.

        Raises:
            ConfigError: sizes, means or filters that are none.
        """
        try:
            size = table.get("size") or {}
            size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
            whole = (int(size["width"]), int(size["height"])) if "height" in size else None
            if "max_height" in size:
                raise ConfigError(f"{PROCESSOR}: size {size} is of no detector that is known")
            normal = table.get("do_normalize", True)
            made = cls(
                whole,
                int(size.get("shortest_edge", 800)),
                int(size.get("longest_edge") or table.get("max_size") or 1333),
                float(table.get("rescale_factor", 1 / 255)) if table.get("do_rescale", True) else 1.0,
                _three(table.get("image_mean") or [m / 255 for m in IMAGENET_MEAN]) if normal else cls.mean,
                _three(table.get("image_std") or [s / 255 for s in IMAGENET_STD]) if normal else cls.std,
                int(table.get("resample", 2)),
            )
        except (TypeError, ValueError, KeyError) as e:
            if isinstance(e, ConfigError):
                raise
            raise ConfigError(f"{PROCESSOR}: not the configuration of an image processor: {e!r}") from None
        sides = (made.shortest, made.longest, *(made.size or ()))
        if not all(1 <= s <= LARGEST for s in sides) or min(made.std) <= 0 or not 0 <= made.resample <= 5:
            raise ConfigError(
                f"{PROCESSOR}: sizes {sides}, std {made.std} or resample {made.resample} out of range"
            )
        return made

    def target(self, photo: tuple[int, int]) -> tuple[int, int]:
        """(w, h) px that a photo of (w, h) becomes."""
        if self.size is not None:
            return self.size
        short, long = min(photo), max(photo)
        factor = min(self.shortest / short, self.longest / long)
        w, h = (max(1, round(s * factor)) for s in photo)
        return w, h

    def prepare(self, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> Floats:
        """(3, h, w) float32 from (H, W, 3) uint8 RGB."""
        from PIL import Image as Pillow

        resized = np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling(self.resample)))
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        normal = (resized * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in values)
    return r, g, b


class TransformersDetector:
    """A `bodyloop.roles.Detector` over an object detector of `transformers`.

    Args:
        model: with ``config`` (labels) and a call that takes ``pixel_values``; it is left where it is (device, type).
        processor: its configuration, or an image processor that has one (``to_dict``). None: known for RT-DETR and its
            relatives only.
        person: the label that is kept.
        score_threshold: boxes below are left out.
        batch: largest number of photos in one call.

    Raises:
        InputError: no detector, no such label, or nothing known of how it is fed; options out of range.
        ConfigError: a processor configuration that is none.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        person: str = "person",
        score_threshold: float | None = None,
        batch: int = BATCH,
    ) -> None:
        config = getattr(model, "config", None)
        labels = getattr(config, "id2label", None)
        if not callable(model) or not isinstance(labels, Mapping) or not labels:
            raise InputError(f"a {type(model).__name__} is no object detector with labels (config.id2label)")
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        self.score_threshold = SCORE_THRESHOLD if score_threshold is None else score_threshold
        check_threshold(self.score_threshold)
        found = [int(i) for i, text in labels.items() if str(text).strip().lower() == person.lower()]
        if not found:
            some = ", ".join(str(v) for v in list(labels.values())[:8])
            raise InputError(
                f"the detector has no label {person!r}; it has {some}, ...: name one (person=...)"
            )
        self.model, self.person, self.labels = model, found[0], len(labels)
        self.name = str(getattr(config, "model_type", type(model).__name__))
        self.processor = _processor(processor, self.name)
        self._batch = (
            batch if self.processor.size is not None else 1
        )  # sizes differ, and padding would shift boxes

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "fp32",
        score_threshold: float | None = None,
    ) -> TransformersDetector:
        """The model in a folder of ``save_pretrained``; nothing is fetched, and no code of the folder is run.

        Raises:
            FileError, ConfigError: the folder's files cannot be read. ModelError: they are of no object detector.
            MissingDependency: torch, transformers or the device is missing.
        """
        folder = Path(folder)
        try:
            from transformers import AutoModelForObjectDetection

            from bodyloop.engines.torch import DTYPES, checked_device
        except ImportError as e:
            raise MissingDependency(
                f"{folder} needs torch and transformers ({e}); pip install 'bodyloop[sam]'"
            ) from e
        place = checked_device(device)
        if dtype not in DTYPES:
            raise InputError(f"unknown precision {dtype!r}; known: {', '.join(DTYPES)}")
        table = _json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else None
        try:
            model = AutoModelForObjectDetection.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError) as e:
            reason = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise ModelError(f"{folder}: no object detector that transformers can load: {reason}") from e
        ready = model.eval().requires_grad_(False).to(place, DTYPES[dtype])
        detector = cls(ready, table, score_threshold=score_threshold)
        detector.name = folder.name
        return detector

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people of each photo: boxes in photo px, scores, and masks of models that draw them; best first."""
        out: list[People] = []
        for start in range(0, len(images), self._batch):
            out += self._detect(images[start : start + self._batch])
        return out

    def _detect(self, images: Sequence[Image]) -> list[People]:
        import torch

        sizes = [self.processor.target(i.size) for i in images]
        pixels = [self.processor.prepare(i.pixels, s) for i, s in zip(images, sizes, strict=True)]
        first = next(iter(self.model.parameters()), torch.zeros(1))
        x = torch.from_numpy(np.stack(pixels)).to(first.device, first.dtype)
        try:
            with torch.inference_mode():
                out = self.model(pixel_values=x)
        except RuntimeError as e:  # what torch raises for shapes, memory and kernels alike
            raise ModelError(f"{self.name} failed on {first.device}: {str(e).splitlines()[0]}") from e
        logits, boxes, masks = (_array(out, n) for n in ("logits", "pred_boxes", "pred_masks"))
        if (
            logits is None
            or boxes is None
            or boxes.shape != (*logits.shape[:2], 4)
            or len(logits) != len(images)
        ):
            raise ModelError(
                f"{self.name}: gave no logits (batch, queries, labels) with boxes (batch, queries, 4)"
            )
        scores = self._scores(logits)
        return [
            self._people(i, s, scores[n], boxes[n], None if masks is None else masks[n])
            for n, (i, s) in enumerate(zip(images, sizes, strict=True))
        ]

    def _scores(self, logits: Floats) -> Floats:
        """(B, Q) of the person, from logits (B, Q, C)."""
        classes = logits.shape[2]
        if self.person >= classes or classes > self.labels + 1:
            raise ModelError(f"{self.name}: {classes} logits a query do not fit its {self.labels} labels")
        if classes == self.labels + 1:  # the last one is "nothing"
            e = np.exp(logits - logits.max(axis=2, keepdims=True))
            return np.asarray((e / e.sum(axis=2, keepdims=True))[..., self.person], np.float32)
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-logits[..., self.person])), np.float32)

    def _people(
        self, image: Image, size: tuple[int, int], scores: Floats, relative: Floats, masks: Floats | None
    ) -> People:
        """Boxes are relative to the photo: centre x, centre y, width, height."""
        centre, sides, whole = (
            relative[:, :2],
            relative[:, 2:],
            np.tile(np.asarray(image.size, np.float32), 2),
        )
        boxes = np.clip(np.concatenate([centre - sides / 2, centre + sides / 2], axis=1) * whole, 0, whole)
        sound = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        kept = np.flatnonzero(sound & (scores > self.score_threshold))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        drawn = None if masks is None else masks_in_photo(masks[kept], Letterbox(image.size, size, size))
        return People(image.size, image.source, boxes=boxes[kept], scores=scores[kept], masks=drawn)


def _processor(given: Any, kind: str) -> Processor:
    if isinstance(given, Processor):
        return given
    if given is None:
        if kind in _STRETCHED:
            return Processor((640, 640))
        raise InputError(
            f"how a {kind} is fed is not known; give its image processor or the table in its {PROCESSOR}"
        )
    table = given.to_dict() if hasattr(given, "to_dict") else given
    if not isinstance(table, Mapping):
        raise InputError(f"processor: expected an image processor or its table, got {type(given).__name__}")
    return Processor.of(table)


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise FileError(f"cannot read {path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: not readable as JSON: {e}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: expected a table, got a {type(table).__name__}")
    return table


def _array(out: Any, name: str) -> Floats | None:
    value: torch.Tensor | None = getattr(out, name, None)
    return None if value is None else value.float().cpu().numpy()
