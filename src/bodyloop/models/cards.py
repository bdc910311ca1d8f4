"""Cards: everything one must know to use a weight file, as data.

A card is one TOML file: how a crop is made and fed (size, mean, std, channel order, padding, mask dimming),
how the maps are decoded, which keypoints come out, where the file lies, under which licences, how accurate
it is. An exported file carries its card in its metadata, so that it is self-sufficient, and a user's own model is
a card, not a subclass. A card knows no code: `architecture` and `head` are names that `bodyloop.nn` builds.

>>> card = load_card("my-model.toml")               # doctest: +SKIP
>>> Card.from_toml(card.to_toml()) == card          # doctest: +SKIP
True
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bodyloop.errors import ConfigError, FileError
from bodyloop.models._skeleton_table import read_skeleton, write_skeleton
from bodyloop.models._tables import read_table, to_table, write_toml
from bodyloop.skeletons import Skeleton

METADATA_KEY = "bodyloop.card"  # in the metadata of ONNX and safetensors files
MAX_CARD_BYTES = 1_000_000  # a card is a page of text; more is not a card
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)

Kind = Literal["pose", "detector", "segmenter"]
Input = Literal["uint8-nhwc", "float32-nchw"]
Head = Literal["probability", "plain", "double", "simple"]

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
_FILE = re.compile(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*")  # relative, no "..", no backslash, no drive
_URL = re.compile(r"(https://[\w.-]+|http://(localhost|127\.0\.0\.1):\d+)(/[\w+-][\w.+-]*)+")
_SHA256 = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the network's input.

    Attributes:
        size: (width, height) of the network's input, px.
        map_size: (width, height) of the maps; None for networks without maps.
        mean, std: per channel in RGB order on 0..255 values, whatever ``order`` is.
        order: channel order the network function is fed with.
        padding: window size relative to the person's box (pose).
        mask_alpha: how much the surroundings of a given mask are dimmed, None where none were seen.
        input: what the network function takes. ``uint8-nhwc``: pixels (B, H, W, 3), it normalises by itself;
            ``float32-nchw``: (B, 3, H, W), already ``(x - mean) / std``.
    """

    size: tuple[int, int]
    map_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    order: Literal["rgb", "bgr"] = "rgb"
    padding: float = 1.25
    mask_alpha: float | None = None
    input: Input = "float32-nchw"

    def __post_init__(self) -> None:
        _check_size("size", self.size)
        if self.map_size is not None:
            _check_size("map_size", self.map_size)
        _require(min(self.std) > 0, f"std must be positive, got {list(self.std)}")
        _require(0 < self.padding <= 10, f"padding must lie in (0, 10], got {self.padding}")
        if self.mask_alpha is not None:
            _check_share("mask_alpha", self.mask_alpha)


@dataclass(frozen=True)
class Double:
    """The two activation windows of a double-map head, relative to the crop."""

    inner: float = 1.0
    outer: float = 1.25

    def __post_init__(self) -> None:
        _require(
            0 < self.inner < self.outer <= 10, f"0 < inner < outer <= 10, got {self.inner}, {self.outer}"
        )


@dataclass(frozen=True)
class Decode:
    """How maps become keypoints.

    Attributes:
        method: the decoder (`bodyloop.maps`); expected OKS takes its kernels from the skeleton's sigmas.
        temperature: of the map logits before sparsemax; 1 and without effect for plain maps.
        presence_temperature, visibility_temperature, quality_temperature: of the branches' logits before
            the sigmoid; 1 until calibrated.
        quality_scale: in words, which OKS the quality output estimates (its area and sigmas).
        presence_threshold: above it a keypoint counts as present in the model's own evaluation.
        double: the windows of a double-map head.
    """

    method: Literal["expected-oks", "dark-udp"]
    temperature: float = 1.0
    presence_temperature: float = 1.0
    visibility_temperature: float = 1.0
    quality_temperature: float = 1.0
    quality_scale: str = ""
    presence_threshold: float | None = None
    double: Double | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "presence_temperature", "visibility_temperature", "quality_temperature"):
            value = getattr(self, name)
            _require(0 < value <= 1000, f"{name} must lie in (0, 1000], got {value}")
        if self.presence_threshold is not None:
            _check_share("presence_threshold", self.presence_threshold)


@dataclass(frozen=True)
class PresenceRisk:
    """What was shown of ``decode.presence_threshold``.

    Attributes:
        false_positive_rate: of the keypoints outside the window, averaged over photographs, at most this share is
            called present, with probability ``confidence`` over the choice of the photographs it was shown on.
        photographs, keypoints: those photographs, and their keypoints outside the window.
        observed: the rate on them.
    """

    false_positive_rate: float
    confidence: float
    photographs: int
    keypoints: int
    observed: float

    def __post_init__(self) -> None:
        for name in ("false_positive_rate", "confidence", "observed"):
            _check_share(name, getattr(self, name))


@dataclass(frozen=True)
class RegionLevel:
    """Thresholds (K,) of conformal regions that miss the keypoint with probability at most ``alpha``; 1 is the
    whole window."""

    alpha: float
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        _require(0 < self.alpha < 1, f"alpha must lie between 0 and 1, got {self.alpha}")
        for value in self.thresholds:
            _check_share("thresholds", value)


@dataclass(frozen=True)
class Calibration:
    """What `bodyloop calibrate` found for a pose model, and on what.

    Attributes:
        data: the photographs, in words.
        method: how temperatures and thresholds were fitted, in words.
        family: the nested regions that the thresholds are for (`bodyloop.maps.conformal.FAMILY`).
        flip, masks: how the model was run; thresholds hold for predictions made in that way.
        before: decoding of the same weights as they came, temperatures and presence threshold.
        photographs: (K,) photographs that each keypoint's thresholds come from; where they are too few, the
            thresholds are those of all keypoints together.
        regions: one entry a level.
        presence: None where no threshold could be shown to keep the wanted rate.
    """

    data: str
    method: str
    family: Literal["smoothed-map-1"]
    flip: bool
    masks: bool
    before: Decode
    photographs: tuple[int, ...] = ()
    regions: tuple[RegionLevel, ...] = ()
    presence: PresenceRisk | None = None

    def __post_init__(self) -> None:
        alphas = [level.alpha for level in self.regions]
        _require(len(set(alphas)) == len(alphas), f"regions: a level occurs twice among {alphas}")


@dataclass(frozen=True)
class Detection:
    """How a picture is fitted into a detector's input and which boxes are kept.

    Attributes:
        pad_value: grey value of the padding at the right and the bottom.
        keep_aspect: scale both axes alike and pad; else stretch.
        score_threshold, nms_iou: of the boxes kept.
        nms_pre, max_per_image: the best that enter the NMS per level, and the best of those that leave it.
        person_class: index of the class "person" among ``num_classes``.
    """

    pad_value: int = 114
    keep_aspect: bool = True
    score_threshold: float = 0.05
    nms_iou: float = 0.6
    nms_pre: int = 1000
    max_per_image: int = 100
    num_classes: int = 1
    person_class: int = 0

    def __post_init__(self) -> None:
        _check_share("score_threshold", self.score_threshold)
        _check_share("nms_iou", self.nms_iou)
        _require(0 <= self.pad_value <= 255, f"pad_value must lie in 0..255, got {self.pad_value}")
        for name in ("nms_pre", "max_per_image", "num_classes"):
            value = getattr(self, name)
            _require(1 <= value <= 1_000_000, f"{name} must lie in 1..1000000, got {value}")
        _require(
            0 <= self.person_class < self.num_classes,
            f"person_class {self.person_class} is not among {self.num_classes} classes",
        )


@dataclass(frozen=True)
class Segmentation:
    """How a segmenter is prompted and what becomes of its logits.

    Attributes:
        method: "points": the picture is encoded once and points, boxes and masks are the prompts (SAM).
            "crops": each person is cut out with its probability maps and a first mask (pose2seg-n).
        max_hole_area, max_sprinkle_area: px of the logit grid; smaller holes are filled, smaller islands
            removed before enlarging. 0: off.
    """

    method: Literal["points", "crops"]
    max_hole_area: int = 0
    max_sprinkle_area: int = 0

    def __post_init__(self) -> None:
        for name in ("max_hole_area", "max_sprinkle_area"):
            value = getattr(self, name)
            _require(0 <= value <= 1_000_000, f"{name} must lie in 0..1000000, got {value}")


@dataclass(frozen=True)
class WeightsFile:
    """Where the weights lie.

    Attributes:
        file: path inside the repository; without ``repository`` and ``url`` a file beside the card.
        format: how the file is read.
        repository: "owner/name" on the Hugging Face hub.
        revision: commit, tag or branch there.
        url: https address of a file that lies on no hub.
        size_bytes: roughly, from the state dict; for messages, never to refuse a file.
        sha256: of the file, or its first 8 digits or more, once known; a file that differs is refused.
        expert: of a mixture of experts, the one that is folded in; None for other weights.
    """

    file: str
    format: Literal["pth", "safetensors", "onnx"]
    repository: str | None = None
    revision: str = "main"
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    expert: int | None = None

    def __post_init__(self) -> None:
        _require(
            _FILE.fullmatch(self.file) is not None,
            f"file must be a plain relative path (letters, digits, . _ + -), got {self.file[:80]!r}",
        )
        if self.repository is not None:
            _require(
                _REPOSITORY.fullmatch(self.repository) is not None,
                f"repository must be 'owner/name', got {self.repository[:80]!r}",
            )
        _require(
            _REVISION.fullmatch(self.revision) is not None,
            f"revision must be a commit, tag or branch name, got {self.revision[:80]!r}",
        )
        size, expert, digits = self.size_bytes, self.expert, self.sha256
        _require(size is None or size > 0, f"size_bytes must be positive, got {size}")
        _require(expert is None or 0 <= expert < 64, f"expert must lie in 0..63, got {expert}")
        _require(digits is None or _SHA256.fullmatch(digits) is not None, "sha256 must be 8 to 64 hex digits")
        if self.url is not None:
            plain = len(self.url) < 500 and _URL.fullmatch(self.url) is not None
            _require(plain, f"url must be a plain https address of a file, got {self.url[:80]!r}")
            _require(self.repository is None, "repository and url exclude each other")

    @property
    def remote(self) -> bool:
        """Whether the file is fetched; else it lies beside the card."""
        return self.repository is not None or self.url is not None


@dataclass(frozen=True)
class Licenses:
    """Three different things: the code the weights were made with, the weights, the data they saw."""

    code: str
    weights: str
    data: str

    @property
    def copyleft(self) -> bool:
        """Whether the weights are under GPL or AGPL (said aloud at the first download)."""
        return "GPL" in self.weights.upper()


@dataclass(frozen=True)
class Accuracy:
    """One published or measured number.

    Attributes:
        dataset, metric, value: as usually written; ``value`` in the metric's own unit (AP 0..1).
        interval: 95 % interval, where one was computed.
        protocol: how it was evaluated.
        boxes: whose boxes ("ground truth", a detector's name, "not stated").
        source: the publication, or the command that made the number.
    """

    dataset: str
    metric: str
    value: float
    interval: tuple[float, float] | None = None
    protocol: str = ""
    boxes: str = ""
    source: str = ""


@dataclass(frozen=True)
class Card:
    """One model: a weight file or a configuration (`load_card`, `Card.from_toml`, `registry.find_card`).

    Attributes:
        name: what users type, lower case.
        kind: its role.
        architecture: name of the network ("vit-s", "vit-b", "vit-l", "vit-h", "pmpose-n", "rtmdet-n", ...).
        licenses, preprocess: see there.
        version: of the weights.
        summary: one line.
        aliases: other names it is found by.
        head: kind of map head (pose): "probability" (sparsemax maps and side branches), "plain" (heat maps),
            "double" (two probability maps and side branches), "simple" (heat maps without deconvolutions).
        skeleton, decode: of pose models, required there.
        detection: of detectors, required there. segmentation: of segmenters, required there.
        calibration: of a file made by `bodyloop calibrate`.
        weights: None for a configuration without published weights.
        outputs: the trained outputs among maps, presence, visibility, quality, boxes, scores, masks.
        parameters: number of parameters, without counters.
        training_data: data sets the weights have seen.
        starts_from: weights the training began with.
        accuracy: numbers; ``known_failures``: what it is known to get wrong.
    """

    name: str
    kind: Kind
    architecture: str
    licenses: Licenses
    preprocess: Preprocess
    version: str = ""
    summary: str = ""
    aliases: tuple[str, ...] = ()
    head: Head | None = None
    outputs: tuple[str, ...] = ()
    parameters: int | None = None
    training_data: tuple[str, ...] = ()
    starts_from: str = ""
    known_failures: tuple[str, ...] = ()
    notes: str = ""
    skeleton: Skeleton | None = None
    decode: Decode | None = None
    detection: Detection | None = None
    segmentation: Segmentation | None = None
    calibration: Calibration | None = None
    weights: WeightsFile | None = None
    accuracy: tuple[Accuracy, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            _require(
                _NAME.fullmatch(name) is not None,
                f"names are lower case letters, digits and . + _ - (at most 64), got {name[:80]!r}",
            )
        unknown = [o for o in self.outputs if o not in OUTPUTS]
        if unknown:
            near = difflib.get_close_matches(unknown[0], OUTPUTS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown output {unknown[0][:40]!r} in outputs; did you mean {near!r}?")
        if self.kind == "pose":
            for key in ("head", "skeleton", "decode"):
                _require(getattr(self, key) is not None, f"a pose model needs the key {key!r}")
            _require(self.preprocess.map_size is not None, "a pose model needs preprocess.map_size")
            _require(
                (self.head == "double") == (self.decode is not None and self.decode.double is not None),
                "head 'double' and the table decode.double belong together",
            )
        for level in () if self.calibration is None else self.calibration.regions:
            k = self.num_keypoints
            _require(
                len(level.thresholds) == k,
                f"calibration: {len(level.thresholds)} thresholds at alpha {level.alpha:g} for {k} keypoints",
            )
        if self.kind == "detector":
            _require(self.detection is not None, "a detector needs the table 'detection'")
        if self.kind == "segmenter":
            _require(self.segmentation is not None, "a segmenter needs the table 'segmentation'")

    @property
    def num_keypoints(self) -> int:
        """K of a pose model, 0 of others."""
        return 0 if self.skeleton is None else len(self.skeleton)

    @classmethod
    def from_toml(cls, text: str, where: str = "card") -> Card:
        """Read a card.

        Raises:
            ConfigError: no TOML, an unknown key, a missing or unfit value; the message begins with ``where``.
        """
        if len(text) > MAX_CARD_BYTES:
            raise ConfigError(f"{where}: {len(text)} characters are too many for a card")
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as e:  # TOMLDecodeError, too many digits, too deep
            raise ConfigError(f"{where}: not readable as TOML: {e}") from None
        return read_table(cls, table, where, {Skeleton: read_skeleton})

    def to_toml(self, *, self_contained: bool = False) -> str:
        """TOML text that reads back to an equal card.

        Args:
            self_contained: write the skeleton out instead of naming it, for files that travel.
        """

        def skeleton(s: Skeleton) -> object:
            return write_skeleton(s, by_name=not self_contained)

        return write_toml(to_table(self, {Skeleton: skeleton}))

    def to_metadata(self) -> dict[str, str]:
        """The card as metadata of an ONNX or safetensors file."""
        return {METADATA_KEY: self.to_toml(self_contained=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str = "metadata") -> Card | None:
        """The card in a file's metadata, None if there is none.

        Raises:
            ConfigError: there is one, and it is malformed.
        """
        text = metadata.get(METADATA_KEY)
        return None if text is None else cls.from_toml(text, f"{where}: {METADATA_KEY}")

    def uncalibrated(self) -> Card:
        """The card of the same model as it was before `bodyloop calibrate`, for other weights of its kind."""
        if self.calibration is None:
            return self
        return replace(self, decode=self.calibration.before, calibration=None)

    def with_weights(self, weights: WeightsFile | None) -> Card:
        """The same card for another file."""
        return replace(self, weights=weights)


OUTPUTS = ("maps", "presence", "visibility", "quality", "error", "boxes", "scores", "masks", "features")


def load_card(path: str | Path) -> Card:
    """Read a card file.

    Raises:
        FileError: it cannot be read.
        ConfigError: it is no card; the message names file and field.
    """
    p = Path(path)
    try:
        with p.open("rb") as f:
            raw = f.read(MAX_CARD_BYTES + 1)
    except OSError as e:
        raise FileError(f"cannot read the card {p}: {e.strerror or e}") from e
    try:
        text = raw.decode()
    except UnicodeDecodeError as e:
        raise ConfigError(f"{p}: a card is UTF-8 text, and this is not: {e}") from None
    return Card.from_toml(text, str(p))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _check_size(name: str, size: tuple[int, int]) -> None:
    _require(all(1 <= s <= 8192 for s in size), f"{name} must lie in 1..8192 px, got {list(size)}")


def _check_share(name: str, value: float) -> None:
    _require(0 <= value <= 1, f"{name} must lie in 0..1, got {value}")
