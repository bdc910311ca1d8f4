"""What the network will see: the samples of the first batches with their labels, on one sheet.

Nothing is made for show: pixels and labels are those that the loop draws by the same seed. Where a batch is more
than is asked for, every so many-th of it is shown, so that all its sources are there. Of a person's crop
the labelled keypoints are drawn (filled: visible, ring: hidden, broken: outside the window; the sheet grows
where they lie beyond the crop) and the box that the window was made from. A detector's canvas shows boxes and
masks, a segmenter's sample the mask that is wanted and the keypoints that are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count as count_from
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from bodyloop.api import load_pose
from bodyloop.data.detection import DetectionSample
from bodyloop.data.masked import MaskedPeople
from bodyloop.data.persons import PersonSet
from bodyloop.drawing import Picture, contact_sheet, draw, strip
from bodyloop.errors import ConfigError
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.models.cards import Preprocess
from bodyloop.models.registry import find_card
from bodyloop.people import People
from bodyloop.segment.planes import CELL as PLANE_CELL
from bodyloop.segment.planes import PLANES
from bodyloop.skeletons import Skeleton
from bodyloop.train.config import DetectorConfig, Pose2SegConfig, PoseConfig, SamConfig, TrainConfig
from bodyloop.train.detection import DetectorSamples
from bodyloop.train.loop import Ref, Samples, samples_of
from bodyloop.train.mixture import parse_sources
from bodyloop.train.pose import card_for
from bodyloop.train.pose2seg_data import MAPS, NOTHING, POINTS, UNNAMED, Pose2SegSamples, Told
from bodyloop.train.pose_data import Labelled, PoseSamples
from bodyloop.train.sam_data import SamSamples, Shown

SCALE = 2.0  # of crops, which are small
CELL = 600  # px
LEGEND = "filled: visible    ring: hidden    broken: outside the window"
TOLD = ("mask", "box", "others")  # planes of the right half of a crop segmenter's sample: red, green, blue
TOLD_LEGEND = "left: the mask wanted    right: first mask red, box green, people beside blue"
MODES = {MAPS: "maps", POINTS: "points", UNNAMED: "points without names", NOTHING: "no pose"}


def show(config: TrainConfig, count: int = 24) -> tuple[Picture, list[str]]:
    """The first ``count`` samples of a training, and their captions: source and numbers of annotation and photo.

    Raises:
        ConfigError: no samples asked for, or a task without pictures. FileError, InputError: data that cannot be read.
    """
    if count < 1:
        raise ConfigError(f"at least one sample must be shown, got {count}")
    if isinstance(config, PoseConfig):
        drawn = _crops(config)
    elif isinstance(config, DetectorConfig):
        drawn = _canvases(config)
    elif isinstance(config, Pose2SegConfig):
        drawn = _segmented(config)
    elif isinstance(config, SamConfig):
        drawn = _prompted(config)
    else:
        raise ConfigError(f"nothing shows the samples of a {type(config).__name__}")
    shown = list(islice(_from_the_first(drawn, config, count), count))
    captions = [caption for _, caption in shown]
    title = f"{config.model}, batches of {config.batch}, seed {config.seed}"
    title += f".    {drawn.legend}" if drawn.legend else ""
    return contact_sheet([p for p, _ in shown], captions=captions, cell=CELL, title=title), captions


class _Drawn(NamedTuple):
    """A task's samples, and how one is drawn and named (its source aside) by what names it."""

    samples: Samples
    paint: Callable[[Ref, Any], tuple[Picture, str]]
    legend: str = ""


def _from_the_first(drawn: _Drawn, config: TrainConfig, count: int) -> Iterator[tuple[Picture, str]]:
    """Pictures and captions, batch by batch."""
    names = list(parse_sources(config.sources))
    for n in count_from():
        for ref, sample in samples_of(drawn.samples, config, n, _places(config.batch, count)):
            picture, caption = drawn.paint(ref, sample)
            yield picture, f"{names[ref[0]]}: {caption}"


def _places(batch: int, count: int) -> list[int]:
    """At most ``count`` places of a batch, evenly spread."""
    return sorted({i * batch // min(count, batch) for i in range(min(count, batch))})


def _crops(config: PoseConfig) -> _Drawn:
    card = card_for(config)
    skeleton = card.skeleton
    assert skeleton is not None  # of every pose card
    samples = PoseSamples(config, skeleton, card.preprocess)

    def paint(ref: Ref, sample: Labelled) -> tuple[Picture, str]:
        hidden = "" if sample.knows_hidden else ", hidden ones not told"
        return _crop(sample, skeleton), _person(samples.sets, ref) + hidden

    return _Drawn(samples, paint, LEGEND)


def _crop(sample: Labelled, skeleton: Skeleton) -> Picture:
    c = sample.crop
    person = People(
        c.pixels.size,
        skeleton=skeleton,
        boxes=_box(sample),
        keypoints=np.where(c.annotated[:, None], c.keypoints, np.nan)[None].astype(np.float32),
        presence=c.in_window[None].astype(np.float32),
        visibility=c.visible[None].astype(np.float32),
    )
    return draw(c.image, person, boxes=True, scale=SCALE)


def _box(sample: Labelled) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The plain box in crop px: it turns with the window, around the same centre."""
    c = sample.crop
    low, high = c.crop.from_crop(c.box[None])[0]
    size = (high - low) * (np.array(c.pixels.size) - 1) / c.crop.scale[0]
    center = (np.array(c.pixels.size) - 1) / 2
    return np.concatenate([center - size / 2, center + size / 2])[None].astype(np.float32)


def _canvases(config: DetectorConfig) -> _Drawn:
    samples = DetectorSamples(config)
    return _Drawn(samples, lambda ref, sample: (_canvas(sample), samples.photos[ref[0]][ref[1]].name))


def _canvas(sample: DetectionSample) -> Picture:
    people = sample.labelled()
    ignored = People(people.image_size, boxes=sample.people.ignore)
    labels = ["person"] * len(people) + ["ignored"] * len(ignored)
    return draw(sample.image, People.concat([people, ignored]), boxes=True, labels=labels)


def _segmented(config: Pose2SegConfig) -> _Drawn:
    pose = load_pose(config.pose, device=config.device, threads=config.threads)
    samples = Pose2SegSamples(config, pose.skeleton, find_card(config.model).preprocess, pose.card.preprocess)

    def paint(ref: Ref, sample: Told) -> tuple[Picture, str]:
        told = f"asks {pose.card.name}" if sample.predicted else MODES[sample.mode]
        return _crop_and_planes(sample, pose.skeleton), f"{_person(samples.sets, ref)}, {told}"

    return _Drawn(samples, paint, TOLD_LEGEND)


def _crop_and_planes(sample: Told, skeleton: Skeleton) -> Picture:
    h, w = sample.target.shape
    person = People((w, h), masks=Masks.from_bitmaps(sample.target[None] > 0))
    if not sample.predicted:  # the places are told, not asked for
        points = sample.points * (w - 1, h - 1)
        person = person.replace(skeleton=skeleton, keypoints=points[None].astype(np.float32))
    levels = np.stack([sample.planes[PLANES.index(n)] for n in TOLD], axis=-1).clip(0, 1)
    planes = (255 * levels).astype(np.uint8).repeat(PLANE_CELL, axis=0).repeat(PLANE_CELL, axis=1)
    crop = draw(np.ascontiguousarray(sample.crop), person, canvas="photo", scale=SCALE)
    return strip([crop, draw(planes, People((w, h)), scale=SCALE)], height=int(SCALE * h))


def _prompted(config: SamConfig) -> _Drawn:
    preprocess = find_card(config.model).preprocess
    samples = SamSamples(config, preprocess)

    def paint(ref: Ref, sample: Shown) -> tuple[Picture, str]:
        picture = _square(sample, samples.sets[ref[0]].skeleton, preprocess)
        return picture, _person(samples.sets, ref)

    return _Drawn(samples, paint)


def _square(sample: Shown, skeleton: Skeleton, preprocess: Preprocess) -> Picture:
    """The network's input with the mask and the keypoints that may be shown to it."""
    grey = np.array(preprocess.std) * sample.image.transpose(1, 2, 0) + np.array(preprocess.mean)
    photo = Image(np.rint(grey.clip(0, 255)).astype(np.uint8))
    points = np.where(sample.usable[:, None], sample.points, np.nan).astype(np.float32)
    masks = Masks.from_bitmaps(sample.target[None])
    person = People(photo.size, skeleton=skeleton, keypoints=points[None], masks=masks)
    return draw(photo, person, scale=CELL / max(photo.size))


def _person(sets: Sequence[PersonSet | MaskedPeople], ref: Ref) -> str:
    people, index = sets[ref[0]], ref[1]
    return f"{people.annotation_ids[index]} of photo {people.image_ids[index]}"
