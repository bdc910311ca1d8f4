"""Training configurations: frozen dataclasses read from flat YAML, unknown keys refused.

No inheritance between recipes: a recipe is one file that shows every number that differs from the
defaults below. ``key=value`` pairs of the command line are applied on top, checked by the same rules.
`TrainConfig` is what the loop needs; `PoseConfig` and `DetectorConfig` add what their tasks need.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bodyloop.errors import ConfigError, FileError


@dataclass(frozen=True)
class TrainConfig:
    """What every training needs.

    Attributes:
        task: "pose" or "detector".
        model: architecture or card.
        data: folder with the data sets; an environment variable may stand in it.
        sources: data sets below ``data`` as ``path:share`` (share of each batch): labels in any format that
            `bodyloop.data.formats` reads, or their folder.
        start: "imagenet", "none", a checkpoint of another run (.pt) or a weight file.
        freeze: parameters that are not trained, by the beginning of their names.
        batch: samples per step, of all processes together. accumulate: parts it is worked in.
        steps: optimiser steps in all. epochs: if not 0, instead of steps: passes through all samples.
        lr: peak learning rate. schedule: "cosine" to ``final_lr`` times it, or "steps": times ``gamma`` at
            each of the ``milestones`` (epochs). flat: share of the steps before the cosine begins.
        warmup: steps, linear from ``warmup_from`` times the peak.
        backbone_lr: factor for the backbone; layer_decay: factor from block to block of it (1: none).
        weight_decay: of matrices and filters. clip: gradient norm. ema: decay of the averaged weights (0: none).
        ema_ramp: if not 0, the decay rises by 1 - exp(-step / ramp), as RTMDet's does.
        seed: of everything random.
        precision: "bf16" or "fp32". compile: by torch.compile.
        device: "cpu" or "cuda". threads: of torch on a CPU. workers: processes that prepare samples.
        checkpoint_every, evaluate_every: steps. evaluate_epochs: if not 0, instead of evaluate_every (but not
            while overfitting): passes through all samples. evaluate_samples: the first only (0: all).
        overfit: train on this many fixed samples and judge on them (0: off), to find mistakes.
    """

    task: str = "pose"
    model: str = "pmpose-n"
    data: str = "$BODYLOOP_DATA"
    sources: tuple[str, ...] = ()
    start: str = "none"
    freeze: tuple[str, ...] = ()
    batch: int = 32
    accumulate: int = 1
    steps: int = 10_000
    epochs: int = 0
    lr: float = 1e-3
    schedule: str = "cosine"
    final_lr: float = 0.02
    flat: float = 0.0
    milestones: tuple[int, ...] = (170, 200)
    gamma: float = 0.1
    warmup: int = 200
    warmup_from: float = 0.001
    backbone_lr: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    clip: float = 5.0
    ema: float = 0.998
    ema_ramp: int = 0
    seed: int = 0
    precision: str = "bf16"
    compile: bool = False
    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    checkpoint_every: int = 250
    evaluate_every: int = 1000
    evaluate_epochs: int = 0
    evaluate_samples: int = 0
    overfit: int = 0

    def __post_init__(self) -> None:
        positive = ("batch", "accumulate", "steps", "lr", "checkpoint_every", "evaluate_every", "threads")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)!r}")
        self._one_of("precision", "bf16", "fp32")
        self._one_of("schedule", "cosine", "steps")

    def _one_of(self, name: str, *known: str) -> None:
        if getattr(self, name) not in known:
            raise ConfigError(
                f"{name} must be {' or '.join(repr(k) for k in known)}, got {getattr(self, name)!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class PoseConfig(TrainConfig):
    """What a pose training needs beyond the loop; probabilities and amounts of the augmentations.

    Attributes:
        skeleton: name of the keypoints to learn; empty: those of the model's card.
        validation: COCO-layout file below ``data`` for evaluation; empty: none.
        loss: "sparsemax" (our own), "oks" (ProbPose), "oks-unit" (PMPose), "mse" (plain heatmaps), "double".
        min_keypoints, min_height: people with less are left out.
        knows_hidden: sources whose labels tell hidden from visible keypoints; empty: all whose format does.
        photos, detections: of sources, as ``source=path`` below ``data``: where their photos are (folder or tar), if
            not beside the labels; boxes of a detector that take the place of the labelled ones.
        mask, mask_alpha, mask_noise: share of people with masks whose surroundings are dimmed, by how much,
            and how often the mask is spoiled.
        flip, half_body, half_body_least: probabilities; least labelled keypoints of half bodies.
        shift, shift_share, scale, rotate, rotate_share: of the box; degrees; how often.
        edges, cut: probability of a black frame (PMPose) and of cutting people (ours).
        patches, photometric, paste: probability of black patches, strength of colours, probability of others
            pasted before or behind.
        warp: where crops are made, and coloured, of the photos: "cpu" (by the workers) or "device" (in batch).
        risk, presence, visibility, quality: weights of our own losses' terms; mse: weight of heatmaps'.
        teacher, distill: model (name or weight file) whose maps are learned from, and the weight of that term.
        fixed_stages, train_depthwise, fixed_norms: what of pmpose-n's backbone stays as ImageNet made it.
    """

    skeleton: str = ""
    validation: str = "coco/dev.json"
    loss: str = "sparsemax"
    min_keypoints: int = 1
    min_height: float = 0.0
    knows_hidden: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    detections: tuple[str, ...] = ()
    mask: float = 0.0
    mask_alpha: float = 0.25
    mask_noise: float = 1.0
    flip: float = 0.5
    half_body: float = 0.3
    half_body_least: int = 9
    shift: float = 0.16
    shift_share: float = 0.3
    scale: float = 0.5
    rotate: float = 80.0
    rotate_share: float = 0.6
    edges: float = 0.0
    cut: float = 0.0
    patches: float = 0.0
    photometric: float = 0.0
    paste: float = 0.0
    warp: str = "cpu"
    risk: float = 0.25
    presence: float = 0.5
    visibility: float = 0.25
    quality: float = 2.0
    mse: float = 1.0
    teacher: str = ""
    distill: float = 1.0
    fixed_stages: int = 0
    train_depthwise: bool = True
    fixed_norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("loss", "sparsemax", "oks", "oks-unit", "mse", "double")
        self._one_of("warp", "cpu", "device")


@dataclass(frozen=True)
class DetectorConfig(TrainConfig):
    """What a detector training needs beyond the loop.

    Attributes:
        validation: COCO-layout file below ``data`` for evaluation; empty: none.
        incomplete: sources whose photos show people without labels and do not say so: nobody there is background.
        people_only: leave out photos on which nobody is labelled.
        size, size_high: sides of the square canvas, drawn per batch. test_size: of the evaluation.
        mosaic: share of pictures made of four. scale_low, scale_high: of the photos, drawn log-uniformly; if
            ``longest`` is not 0 relative to that longest side of a photo, drawn uniformly.
        copy_paste: probability of somebody with a mask being pasted into a photo, drawn twice.
        mask_out: probability that some of a photo's people are painted black and forgotten.
        mask_out_rough: of each of them, with a mask as a segmenter would draw it (ours, like the next).
        mask_out_all: that everybody who has a mask is painted then, not only some.
        closing: share of the steps at the end without mosaic, scales times ``closing_scale``.
        fixed_stages, train_depthwise: what of the small backbone stays as ImageNet made it.
    """

    task: str = "detector"
    model: str = "rtmdet-n"
    size: int = 320
    size_high: int = 416
    test_size: int = 416
    validation: str = "coco/dev.json"
    incomplete: tuple[str, ...] = ()
    people_only: bool = False
    mosaic: float = 0.5
    scale_low: float = 0.45
    scale_high: float = 1.4
    longest: int = 0
    copy_paste: float = 0.0
    mask_out: float = 0.0
    mask_out_rough: float = 0.0
    mask_out_all: float = 0.0
    closing: float = 0.0
    closing_scale: float = 1.0
    fixed_stages: int = 2
    train_depthwise: bool = False


@dataclass(frozen=True)
class Pose2SegConfig(TrainConfig):
    """What the training of a pose-to-mask network needs beyond the loop; probabilities and amounts.

    Attributes:
        pose: model whose maps are learned from; predicted: share of the people that it is asked about, the others'
            maps come from their labels. validation: COCO-layout file below ``data``; empty: none.
        least_area: px^2 of a box that a person must exceed.
        flip, paste, photometric: as of a pose training.
        shift, scale, shift_share: standard deviations of the box (share of its sides, logarithm); how often.
        rotate, rotate_share: degrees at most; how often.
        box, mask, others: how often box, first mask and the people beside are known.
        bce, dice, score: weights of the terms.
        fixed_stages, train_depthwise: what of the backbone stays as it was.
    """

    task: str = "segmenter"
    model: str = "pose2seg-n"
    pose: str = "pmpose-n"
    predicted: float = 0.5
    validation: str = "coco/dev.json"
    least_area: float = 400.0
    flip: float = 0.5
    paste: float = 0.35
    photometric: float = 0.3
    shift: float = 0.05
    scale: float = 0.1
    shift_share: float = 0.6
    rotate: float = 30.0
    rotate_share: float = 0.3
    box: float = 0.85
    mask: float = 0.5
    others: float = 0.75
    bce: float = 1.0
    dice: float = 1.0
    score: float = 0.3
    fixed_stages: int = 2
    train_depthwise: bool = False


@dataclass(frozen=True)
class SamConfig(TrainConfig):
    """What the fine-tuning of a SAM on people needs beyond the loop.

    Attributes:
        pose: model whose poses prompt the evaluation. validation: COCO-layout file below ``data``; empty: none.
        least_area: px^2 of a box that a person must exceed.
        flip: probability. rotate, shear: degrees at most. colour: strength, 1 as published. grey: probability.
        corrections: rounds after the first.
        keypoint, truth: probabilities that a correction is a keypoint, and that a pixel is one of the true mask.
    """

    task: str = "sam"
    model: str = "sam-pose2seg-b+"
    pose: str = "pmpose-n"
    validation: str = "coco/dev.json"
    least_area: float = 400.0
    flip: float = 0.5
    rotate: float = 25.0
    shear: float = 20.0
    colour: float = 1.0
    grey: float = 0.05
    corrections: int = 7
    keypoint: float = 0.5
    truth: float = 0.1


TASKS: dict[str, type[TrainConfig]] = {
    "pose": PoseConfig,
    "detector": DetectorConfig,
    "segmenter": Pose2SegConfig,
    "sam": SamConfig,
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a flat YAML recipe and apply ``key=value`` overrides; its key ``task`` decides the class.

    Raises:
        FileError: the file cannot be read. ConfigError: unknown key (the nearest known one is named) or bad value.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: cannot read the configuration: {e}") from e
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {e}") from e
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: expected a flat table of keys and values")
    for item in overrides:
        key, sep, value = item.partition("=")
        if not sep:
            raise ConfigError(f"override {item!r}: expected key=value")
        table[key] = yaml.safe_load(value) if value else ""  # what is left of validation='' behind a shell
    return config_from(table, str(path))


def config_from(table: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
    """Build the configuration of the table's task from plain values, each checked by the field's type.

    Raises:
        ConfigError: an unknown task or key (the nearest is named), or a value that does not fit.
    """
    task = table.get("task", "pose")
    if task not in TASKS:
        raise ConfigError(f"{where}: task must be one of {', '.join(TASKS)}, got {task!r}")
    kind = TASKS[task]
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
        values[key] = _convert(key, value, getattr(kind, key), where)
    try:
        return kind(**values)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from None


def _convert(key: str, value: Any, default: Any, where: str) -> Any:
    """A plain value in the type of the field's default; lists in that of the default's items (text if empty)."""
    if isinstance(default, tuple):
        items = value if isinstance(value, list | tuple) else [value] if value != "" else []
        return tuple(_convert(key, v, default[0] if default else "", where) for v in items)
    kind = type(default)
    if value is None or isinstance(value, list | dict) or isinstance(value, bool) is not (kind is bool):
        raise ConfigError(f"{where}: {key} must be {kind.__name__}, got {value!r}")
    try:
        converted = kind(value)
    except (ValueError, OverflowError) as e:
        raise ConfigError(f"{where}: {key} must be {kind.__name__}, got {value!r}") from e
    if kind is int and float(value) != converted:
        raise ConfigError(f"{where}: {key} must be a whole number, got {value!r}")
    return converted
