"""What the network will see: the samples of the first batches with their labels, on one sheet.

Nothing is made for show: pixels and labels are those that the loop draws by the same seed. Where a batch is more
than is asked for, every so many-th of it is shown, so that all its sources are there. Of a person's crop
the labelled keypoints are drawn (filled: visible, ring: hidden, broken: outside the window; the sheet grows
where they lie beyond the crop) and the box that the window was made from. A detector's canvas shows boxes and
masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as count_from
from itertools import islice

import numpy as np

from bodyloop.data.detection import DetectionSample
from bodyloop.drawing import Picture, contact_sheet, draw
from bodyloop.errors import ConfigError
from bodyloop.people import People
from bodyloop.skeletons import Skeleton
from bodyloop.train.config import DetectorConfig, PoseConfig, TrainConfig
from bodyloop.train.detection import DetectorSamples
from bodyloop.train.loop import samples_of
from bodyloop.train.mixture import parse_sources
from bodyloop.train.pose import card_for
from bodyloop.train.pose_data import Labelled, PoseSamples

SCALE = 2.0  # of crops, which are small
CELL = 600  # px
LEGEND = "filled: visible    ring: hidden    broken: outside the window"


def show(config: TrainConfig, count: int = 24) -> tuple[Picture, list[str]]:
    """The first ``count`` samples of a training, and their captions: source and numbers of annotation and photo.

    Raises:
        ConfigError: no samples asked for, or a task without pictures. FileError, InputError: data that cannot be read.
    """
    if count < 1:
        raise ConfigError(f"at least one sample must be shown, got {count}")
    if isinstance(config, PoseConfig):
        shown = list(islice(_crops(config, count), count))
        title = f"{config.model}, batches of {config.batch}, seed {config.seed}.    {LEGEND}"
    elif isinstance(config, DetectorConfig):
        shown = list(islice(_canvases(config, count), count))
        title = f"{config.model}, batches of {config.batch}, seed {config.seed}"
    else:
        raise ConfigError(f"nothing shows the samples of a {type(config).__name__}")
    captions = [caption for _, caption in shown]
    return contact_sheet([p for p, _ in shown], captions=captions, cell=CELL, title=title), captions


def _places(batch: int, count: int) -> list[int]:
    """At most ``count`` places of a batch, evenly spread."""
    return sorted({i * batch // min(count, batch) for i in range(min(count, batch))})


def _crops(config: PoseConfig, count: int) -> Iterator[tuple[Picture, str]]:
    card = card_for(config)
    assert card.skeleton is not None  # of every pose card
    samples = PoseSamples(config, card.skeleton, card.preprocess)
    names = list(parse_sources(config.sources))
    for n in count_from():
        for (source, index), sample in samples_of(samples, config, n, _places(config.batch, count)):
            persons = samples.sets[source]
            ids = f"{persons.annotation_ids[index]} of photo {persons.image_ids[index]}"
            hidden = "" if sample.knows_hidden else ", hidden ones not told"
            yield _crop(sample, card.skeleton), f"{names[source]}: {ids}{hidden}"


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


def _canvases(config: DetectorConfig, count: int) -> Iterator[tuple[Picture, str]]:
    samples = DetectorSamples(config)
    names = list(parse_sources(config.sources))
    for n in count_from():
        for (source, index, *_), sample in samples_of(samples, config, n, _places(config.batch, count)):
            yield _canvas(sample), f"{names[source]}: {samples.photos[source][index].name}"


def _canvas(sample: DetectionSample) -> Picture:
    people = sample.labelled()
    ignored = People(people.image_size, boxes=sample.people.ignore)
    labels = ["person"] * len(people) + ["ignored"] * len(ignored)
    return draw(sample.image, People.concat([people, ignored]), boxes=True, labels=labels)
