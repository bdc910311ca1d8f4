"""Detectors of transformers: small random ones of its own classes, and stand-ins for what those never do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from bodyloop.api import load_detector  # noqa: E402
from bodyloop.detect.hf import Processor, TransformersDetector  # noqa: E402
from bodyloop.errors import ConfigError, InputError, ModelError  # noqa: E402
from bodyloop.images import Image  # noqa: E402
from bodyloop.roles import Detector  # noqa: E402

LABELS = {0: "cat", 1: "person", 2: "dog"}
SMALL = {"height": 64, "width": 96}


def photos() -> list[Image]:
    rng = np.random.default_rng(0)
    sizes = [(60, 80), (90, 50), (1, 1), (20, 400)]
    return [Image(rng.integers(0, 256, (*s, 3), dtype=np.uint8), id=i) for i, s in enumerate(sizes)]


def varied(model: Any) -> Any:
    """With random weights large enough that boxes and scores differ."""
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def rt_detr() -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[32, 32, 32], encoder_hidden_dim=32, d_model=32,
        num_queries=20, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_attention_heads=2,
        encoder_attention_heads=2, decoder_in_channels=[32, 32, 32], id2label=LABELS,
    )  # fmt: skip
    torch.manual_seed(0)
    return varied(transformers.RTDetrForObjectDetection(config))


@pytest.fixture(scope="module")
def yolos() -> Any:
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[64, 96],
        num_detection_tokens=60, id2label=LABELS,
    )  # fmt: skip
    torch.manual_seed(1)
    return varied(transformers.YolosForObjectDetection(config))


def theirs(processor: Any, model: Any, image: Image, threshold: float, label: int = 1) -> list[np.ndarray]:
    """What has a label, by transformers' own preparation and reading: box, score."""
    inputs = processor(images=image.pixels, return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        out = model(pixel_values=inputs["pixel_values"])
    h, w = image.pixels.shape[:2]
    found = processor.post_process_object_detection(out, threshold=threshold, target_sizes=[(h, w)])[0]
    boxes = np.clip(found["boxes"].numpy(), 0, [w, h, w, h])
    rows = np.column_stack([boxes, found["scores"].numpy()])[found["labels"].numpy() == label]
    return [r for r in rows if (r[2:4] > r[:2]).all()]


def test_as_transformers_reads_it_with_sigmoid(rt_detr: Any) -> None:
    """They keep as many boxes as there are queries, of all labels; we all of one (these weights see dogs)."""
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    processor = RTDetrImageProcessorPil(size=SMALL)
    detector = TransformersDetector(rt_detr, processor, person="Dog", score_threshold=0.05, batch=3)
    assert isinstance(detector, Detector) and str(detector) == "rt_detr"
    contained(detector, [theirs(processor, rt_detr, i, 0.05, 2) for i in photos()])


def test_as_transformers_reads_it_with_softmax(yolos: Any) -> None:
    """They keep each query's best label; we every person above the threshold."""
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    processor = YolosImageProcessorPil(size=SMALL, do_pad=False)
    detector = TransformersDetector(yolos, processor, score_threshold=0.1)
    contained(detector, [theirs(processor, yolos, i, 0.1) for i in photos()])


def contained(detector: TransformersDetector, expected: list[list[np.ndarray]]) -> None:
    together = detector.detect(photos())
    for image, people, rows in zip(photos(), together, expected, strict=True):
        assert people.boxes is not None and people.scores is not None
        mine = np.column_stack([people.boxes, people.scores])
        for row in rows:
            assert np.isclose(mine, row, rtol=0, atol=1e-3).all(axis=1).any()
        assert (np.diff(people.scores) <= 0).all()
        assert people.allclose(detector.detect([image])[0], atol=1e-3)
    assert sum(map(len, expected)) > 10


def test_folders_of_save_pretrained(rt_detr: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my-rtdetr"
    rt_detr.save_pretrained(folder)
    table = {"size": SMALL, "do_normalize": False, "image_processor_type": "RTDetrImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(table))
    detector = load_detector(folder, score_threshold=0.4)
    assert str(detector) == "my-rtdetr"
    expected = load_detector(str(folder), score_threshold=0.4).detect(photos())
    given = TransformersDetector(rt_detr, table, score_threshold=0.4).detect(photos())
    for a, b, c in zip(detector.detect(photos()), expected, given, strict=True):
        assert a.allclose(b) and a.allclose(c)
    for options in ({"compile": True}, {"threads": 1}, {"card": "rtmdet-n"}):
        with pytest.raises(InputError, match="not for detectors of transformers"):
            load_detector(folder, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision"):
        load_detector(folder, dtype="int8")  # type: ignore[arg-type]
    (folder / "preprocessor_config.json").write_text("[")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        load_detector(folder)
    (folder / "preprocessor_config.json").unlink()
    assert isinstance(load_detector(folder), Detector)  # 640 x 640 is what RT-DETR takes
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="my-rtdetr: no object detector"):
        load_detector(folder)


class Stand:
    """Answers what a test says, and keeps what it was given."""

    def __init__(self, logits: Any, boxes: Any, masks: Any = None, labels: Any = None) -> None:
        self.config = SimpleNamespace(id2label=LABELS if labels is None else labels, model_type="stand")
        self.out = SimpleNamespace(
            logits=torch.tensor(logits), pred_boxes=torch.tensor(boxes),
            pred_masks=None if masks is None else torch.tensor(masks),
        )  # fmt: skip
        self.given: list[torch.Tensor] = []

    def parameters(self) -> list[torch.Tensor]:
        return [torch.zeros(1)]

    def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.given.append(pixel_values)
        return self.out


GREY = Image(np.full((50, 100, 3), 128, np.uint8))
LOGITS = [[[9.0, 1.0, 0.0], [-9.0, 2.0, 0.0], [0.0, -3.0, 9.0]]]
BOXES = [[[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 2.0, 1.0], [0.1, 0.1, 0.1, 0.1]]]


def test_by_hand() -> None:
    stand = Stand(LOGITS, BOXES)
    detector = TransformersDetector(stand, Processor((64, 32), mean=(0.5,) * 3, std=(0.5,) * 3))
    (people,) = detector.detect([GREY])
    assert people.boxes is not None and people.scores is not None and people.masks is None
    assert np.allclose(people.boxes, [[0, 0, 100, 50], [40, 15, 60, 35]])  # best first, within the photo
    assert np.allclose(people.scores, [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))])
    (x,) = stand.given
    assert x.shape == (1, 3, 32, 64) and torch.allclose(x, torch.tensor(2 * 128 / 255 - 1), atol=1e-6)


def test_masks_of_models_that_draw_them() -> None:
    masks = np.full((1, 3, 8, 16), -1.0, np.float32)
    masks[0, 0, :, :8] = 1.0  # the left half
    stand = Stand(LOGITS, BOXES, masks)
    (people,) = TransformersDetector(stand, {"size": {"height": 32, "width": 64}}).detect([GREY])
    assert people.masks is not None and people.masks.areas.tolist() == [0, 50 * 50]


def test_proportions_are_kept_where_only_an_edge_is_given() -> None:
    stand = Stand(LOGITS, BOXES)
    detector = TransformersDetector(stand, {"size": {"shortest_edge": 40, "longest_edge": 60}})
    detector.detect([GREY, Image(np.zeros((100, 50, 3), np.uint8)), Image(np.zeros((10, 12, 3), np.uint8))])
    assert [tuple(x.shape[2:]) for x in stand.given] == [(30, 60), (60, 30), (40, 48)]  # one by one
    assert Processor(shortest=4, longest=8).target((4000, 1)) == (8, 1)


def test_functions_and_detectors() -> None:
    def whole(pixels: np.ndarray) -> list[list[float]]:
        return [[0, 0, pixels.shape[1], pixels.shape[0]]]

    detector = load_detector(whole)
    assert load_detector(detector) is detector
    (people,) = detector.detect([GREY])
    assert people.boxes is not None and people.boxes.tolist() == [[0, 0, 100, 50]]
    with pytest.raises(InputError, match="of yours has its own"):
        load_detector(whole, score_threshold=0.5)
    with pytest.raises(InputError, match="got int"):
        load_detector(3)  # type: ignore[arg-type]
    stand = Stand(LOGITS, BOXES)
    with pytest.raises(InputError, match="how a stand is fed is not known"):
        load_detector(stand)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (object(), {}, "no object detector with labels"),
        (Stand(LOGITS, BOXES, labels={}), {}, "no object detector with labels"),
        (Stand(LOGITS, BOXES, labels={0: "cat"}), {}, "no label 'person'; it has cat"),
        (Stand(LOGITS, BOXES), {"person": "horse"}, "no label 'horse'"),
        (Stand(LOGITS, BOXES), {"batch": 0}, "batch"),
        (Stand(LOGITS, BOXES), {"score_threshold": 2.0}, "score_threshold"),
        (Stand(LOGITS, BOXES), {"processor": 3}, "expected an image processor"),
    ],
    ids=range(7),
)
def test_what_is_no_detector(model: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TransformersDetector(model, **{"processor": Processor((32, 32)), **options})


@pytest.mark.parametrize(
    "table",
    [
        {"size": {"height": 64}},
        {"size": {"height": 64, "width": 10**9}},
        {"size": {"height": 0, "width": 64}},
        {"size": {"height": "a", "width": 64}},
        {"size": {"max_height": 64, "max_width": 64}},
        {"size": [64, 64]},
        {"image_mean": [0.5]},
        {"image_std": [1, 0, 1]},
        {"rescale_factor": "x"},
        {"resample": 9},
    ],
    ids=str,
)
def test_processors_that_are_none(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="preprocessor_config"):
        Processor.of(table)


@pytest.mark.parametrize(
    ("logits", "boxes", "says"),
    [
        (LOGITS, [[[0.5, 0.5, 0.2, 0.4]]], "gave no logits"),
        ([LOGITS[0]] * 2, [BOXES[0]] * 2, "gave no logits"),
        ([[[1.0]]], [[[0.5, 0.5, 0.2, 0.4]]], "1 logits a query"),
        ([[[1.0] * 5]], [[[0.5, 0.5, 0.2, 0.4]]], "5 logits a query"),
    ],
    ids=["fewer boxes", "more pictures", "too few classes", "too many classes"],
)
def test_answers_that_do_not_fit(logits: Any, boxes: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        TransformersDetector(Stand(logits, boxes), Processor((32, 32))).detect([GREY])


def test_answers_that_are_no_numbers() -> None:
    nan = float("nan")
    stand = Stand(
        [[[0.0, nan, 0.0], [0.0, 5.0, 0.0], [0.0, 9.0, 0.0]]], [[BOXES[0][0], [nan] * 4, BOXES[0][0]]]
    )
    (people,) = TransformersDetector(stand, Processor((32, 32))).detect([GREY])
    assert len(people) == 1
