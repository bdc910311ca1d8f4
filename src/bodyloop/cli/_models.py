"""The networks of a run over photos: known by name and checksum at once, loaded when the first photo needs them.

Either a pose model behind a detector, or the loop of detector, pose model and segmenter. What is wrong with a
model is said with the name it was called by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bodyloop.errors import InputError, ModelError

if TYPE_CHECKING:
    from bodyloop.images import Image
    from bodyloop.loop import BodyLoop, LoopConfig
    from bodyloop.models.cards import Card
    from bodyloop.people import People
    from bodyloop.pose.estimator import PoseModel
    from bodyloop.roles import Detector, Segmenter


@dataclass(frozen=True)
class How:
    """How networks are run.

    Attributes:
        device: where pose model and segmenter run, and a detector that is no ONNX file.
        detector_device: where the detector runs; None: see ``device``.
        threads: of each network; None: all cores.
        threshold: least score of a box; None: the detector's, or the loop's.
        options: of `PoseOptions`.
    """

    device: str = "cpu"
    detector_device: str | None = None
    threads: int | None = None
    threshold: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Models:
    """Who plays which role in a run.

    Args:
        names: of the models by role: "pose", perhaps "detector", and with a ``config`` "segmenter".
        card: what a bare weight file of the pose model is.
        config: of the loop; None: detector and pose model, once.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        how: How | None = None,
        *,
        card: str | None = None,
        config: LoopConfig | None = None,
    ) -> None:
        from bodyloop.api import find_detector
        from bodyloop.models.registry import resolve

        self._names, self._how, self._card = dict(names), how or How(), card
        self.config = config
        found: dict[str, tuple[Card | None, Path]] = {
            role: find_detector(name)
            if role == "detector"
            else resolve(_file_of(name), card if role == "pose" else None)
            for role, name in names.items()
        }
        self._files = {role: file for role, (_, file) in found.items()}
        described = {role: _described(*f) for role, f in found.items()}
        self.description: dict[str, Any] = {"detector": None, **described}

    @cached_property
    def pose(self) -> PoseModel:
        """The pose model."""
        from bodyloop.api import load_pose
        from bodyloop.pose.inference import PoseOptions

        options = PoseOptions(**self._how.options)
        with self._named("pose") as name:
            return load_pose(name, card=self._card, detector=None, options=options, **self._place("pose"))

    @cached_property
    def detector(self) -> Detector:
        """The detector."""
        from bodyloop.api import load_detector

        if "detector" not in self._names:
            raise InputError("this run has no detector")
        with self._named("detector") as name:
            return load_detector(name, score_threshold=self._how.threshold, **self._place("detector"))

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter."""
        from bodyloop.api import load_segmenter

        with self._named("segmenter") as name:
            return load_segmenter(name, **self._place("segmenter"))

    @cached_property
    def loop(self) -> BodyLoop:
        """The loop over all three."""
        from bodyloop.api import load_pipeline

        if self.config is None:
            raise InputError("this run has no loop")
        return load_pipeline(self.config, detector=self.detector, pose=self.pose, segmenter=self.segmenter)

    def _place(self, role: str) -> dict[str, Any]:
        """Where a network runs, and on how many threads."""
        how, file = self._how, self._files[role]
        device = how.device
        if role == "detector":
            device = how.detector_device or ("cpu" if file.suffix.lower() == ".onnx" else device)
        return {"device": device, "threads": threads_for(file, how.threads)}

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people of each image."""
        detector = self.detector
        with self._named("detector"):
            return detector.detect(images)

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        """The people of each image with keypoints."""
        pose = self.pose
        with self._named("pose"):
            return pose.estimate(images, people)

    @contextmanager
    def _named(self, role: str) -> Iterator[str]:
        """What is wrong with a model is said with the name it was called by, which is given."""
        name = self._names[role]
        try:
            yield name
        except ModelError as e:
            raise e if name in str(e) else ModelError(f"{name}: {e}") from e


def _file_of(name: str) -> str | Path:
    """A model's name, of the folder of an exported segmenter the file that holds its card."""
    from bodyloop.api import ENCODER

    try:
        return encoder if (encoder := Path(name) / ENCODER).is_file() else name
    except (OSError, ValueError):  # no path at all
        return name


def threads_for(file: Path, threads: int | None) -> int | None:
    """What to load a model with so that it runs on so many threads: torch is told at once, for the process."""
    if threads is None or file.suffix.lower() == ".onnx":
        return threads
    try:
        import torch
    except ImportError:  # loading the model says so
        return None
    torch.set_num_threads(threads)
    return None


def _described(card: Card | None, file: Path) -> dict[str, str]:
    from bodyloop.models.checkpoints import sha256_of

    return {"name": file.stem if card is None else card.name, "sha256": sha256_of(file)}
