"""RTMDet's cards and weight files: what is published, MMDetection's layout, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bodyloop.api import load_detector  # noqa: E402
from bodyloop.errors import ConfigError, ModelError  # noqa: E402
from bodyloop.images import Image  # noqa: E402
from bodyloop.models.build import build_network, load_network  # noqa: E402
from bodyloop.models.cards import Card, Detection, WeightsFile, load_card  # noqa: E402
from bodyloop.models.checkpoints import convert, infer_card, read_checkpoint  # noqa: E402
from bodyloop.models.registry import CATALOG, find_card  # noqa: E402

State = dict[str, Any]
FILES = sorted(CATALOG.glob("rtmdet-*.toml"))
SIZES = ("tiny", "s", "m", "l", "x")
SHARED = "bbox_head.cls_convs.0.0.conv.weight", "bbox_head.reg_convs.2.0.conv.weight"


def test_the_catalogue_has_every_published_detector() -> None:
    names = {f"rtmdet-{kind}{s}" for kind in ("", "ins-") for s in SIZES}
    assert {p.stem for p in FILES} == names | {"rtmdet-m-person", "rtmdet-ins-l-mask"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_card_is_complete_and_right(path: Path) -> None:
    card = load_card(path)
    assert card.name == path.stem and Card.from_toml(card.to_toml()) == card
    assert card.summary and card.notes and card.training_data and card.known_failures
    assert (card.preprocess.size, card.preprocess.order, card.preprocess.input) == (
        (640, 640),
        "bgr",
        "uint8-nhwc",
    )
    assert ("masks" in card.outputs) == ("-ins-" in card.name)
    net = build_network(card, meta=True)
    assert card.parameters == sum(p.numel() for p in net.parameters())
    assert card.weights is not None and card.weights.size_bytes is not None
    assert card.weights.size_bytes > 4 * card.parameters
    if card.name == "rtmdet-ins-l-mask":
        assert card.licenses.copyleft and card.weights.repository == "vrg-prague/BBoxMaskPose"
        return
    assert not card.licenses.copyleft
    assert card.weights.url is not None and card.weights.url.endswith(f"/{card.weights.file}")
    assert card.weights.file.endswith(f"-{card.weights.sha256}.pth")  # OpenMMLab writes the sum into the name
    assert card.accuracy or card.name == "rtmdet-m-person"


def test_published_numbers() -> None:
    rows = {(c, r.metric): r.value for c in ("rtmdet-ins-l", "rtmdet-tiny") for r in find_card(c).accuracy}
    assert rows == {
        ("rtmdet-ins-l", "box AP"): 0.512,
        ("rtmdet-ins-l", "mask AP"): 0.437,
        ("rtmdet-tiny", "box AP"): 0.409,
    }


def state_of(classes: int = 80, size: str = "tiny") -> State:
    """Random weights as MMDetection saves them: both names of what is shared."""
    from bodyloop.nn.rtmdet_ins import rtmdet_ins

    torch.manual_seed(0)
    state: State = rtmdet_ins(size, classes).state_dict()
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return state_of()


def save(path: Path, state: State) -> Path:
    torch.save({"meta": {"mmdet_version": "3.3.0", "CLASSES": ("person",)}, "state_dict": state}, path)
    return path


def test_a_file_of_mmdetection(state: State, tmp_path: Path) -> None:
    path = save(tmp_path / "published.pth", state)
    assert infer_card(read_checkpoint(path)).name == "rtmdet-ins-tiny"
    net = load_network(find_card("rtmdet-ins-tiny"), path)
    again = net.state_dict()
    assert set(again) == set(state) and all(torch.equal(again[n], t) for n, t in state.items())
    done = convert(path, tmp_path / "mine.safetensors")
    assert (done.card.name, done.tensors, done.parameters) == (
        "rtmdet-ins-tiny",
        len(state),
        5638187,
    )
    by_ours = load_network(done.card, done.target).state_dict()
    assert all(torch.equal(by_ours[n], t) for n, t in state.items())


def test_either_name_fills_a_shared_tensor(state: State, tmp_path: Path) -> None:
    for branch in ("cls", "reg"):
        half = {n: t for n, t in state.items() if f".{branch}_convs." not in n}
        net = load_network(find_card("rtmdet-ins-tiny"), save(tmp_path / f"{branch}.pth", half))
        assert all(torch.equal(net.state_dict()[n], t) for n, t in state.items())


def test_people_of_one_class_or_eighty(tmp_path: Path) -> None:
    for classes in (1, 80):
        path = save(tmp_path / f"{classes}.pth", state_of(classes))
        detector = load_detector(path, card="rtmdet-ins-tiny", score_threshold=0.0)
        (people,) = detector.detect([Image(np.zeros((20, 30, 3), np.uint8))])
        assert len(people) and people.masks is not None and people.masks.size == (30, 20)
    done = convert(tmp_path / "1.pth", tmp_path / "1.safetensors")
    assert done.card.detection is not None and done.card.detection.num_classes == 1


def without(name: str) -> Callable[[State], State]:
    return lambda s: {n: t for n, t in s.items() if name not in n}


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[State], State]:
    return lambda s: {**s, name: change(s[name])}


REFUSED = {
    "three classes": (lambda s: state_of(3), r"has 3 classes, card 'rtmdet-ins-tiny' says 80; write a card"),
    "another size": (lambda s: state_of(size="s"), r"\d+ unexpected: .*\d+ of another shape: backbone\.stem"),
    "boxes only": (without("kernel"), r"missing: bbox_head\.kernel_convs\.0\.0\.conv\.weight"),
    "a tensor missing": (without("stage2.0.bn.running_mean"), r"1 missing: backbone\.stage2\.0\.bn\.running_mean"),
    "names that differ": (changed(SHARED[1], lambda t: t + 1), rf"{SHARED[0]}' and '{SHARED[1]}' are one tensor"),
    "one too many": (lambda s: {**s, "extra": torch.zeros(1)}, "1 unexpected: extra"),
    "not a number": (changed("bbox_head.rtm_reg.1.bias", lambda t: t * np.nan), "NaN"),
    "heads of different sizes": (
        changed("bbox_head.rtm_cls.1.bias", lambda t: t[:7]), r"bbox_head\.rtm_cls\.1\.bias is \(7\)"
    ),
    "a head without shape": (changed("bbox_head.rtm_cls.0.weight", lambda t: t.reshape(-1)), "rtm_cls.0.weight is"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_files_that_do_not_fit(state: State, tmp_path: Path, kind: str) -> None:
    spoil, says = REFUSED[kind]
    path = save(tmp_path / "x.pth", spoil(state))
    with pytest.raises(ModelError, match=says) as e:
        load_network(find_card("rtmdet-ins-tiny"), path)
    assert str(path) in str(e.value)


def test_architectures_and_cards_that_do_not_fit(state: State, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", state)
    tiny = find_card("rtmdet-ins-tiny")
    for architecture in ("rtmdet-ins-xl", "yolo-tiny", "tiny", "rtmdet-n"):
        with pytest.raises(ModelError, match="there are rtmdet-SIZE"):
            build_network(replace(tiny, architecture=architecture))
    with pytest.raises(ModelError, match=r"unexpected: bbox_head\.kernel_convs"):
        load_detector(path, card="rtmdet-tiny")
    with pytest.raises(ModelError, match="is no detector but a pose model"):
        load_detector("pmpose-n")
    second = replace(tiny, detection=Detection(num_classes=2, person_class=1))
    with pytest.raises(ModelError, match="has 80 classes, card 'rtmdet-ins-tiny' says 2"):
        load_network(second, path)
    several = save(tmp_path / "l.pth", {n: torch.zeros(()) for n in state})
    with pytest.raises(ModelError, match="not the weights of a known network"):
        infer_card(read_checkpoint(several))


def test_cards_that_are_malformed(state: State, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", state)
    tiny = find_card("rtmdet-ins-tiny")
    for preprocess, says in (
        (replace(tiny.preprocess, size=(100, 64)), "both sides must be multiples of 32"),
        (replace(tiny.preprocess, input="float32-nchw"), "its card says 'float32-nchw'"),
    ):
        with pytest.raises(ModelError, match=says):
            load_detector(path, card=replace(tiny, preprocess=preprocess))
    text = tiny.to_toml()
    for old, new, says in (
        ("person_class = 0", "person_class = 80", "person_class 80 is not among 80 classes"),
        ("nms_iou = 0.6", "nms_iou = 1.6", "nms_iou"),
        ("num_classes = 80", "num_classes = 0", "num_classes"),
        ("max_per_image = 100", "max_per_image = 1.5", "max_per_image"),
        ("pad_value = 114", "pad_value = 256", "pad_value"),
        ("[detection]", "[detections]", "'detection'"),
    ):
        assert old in text
        (tmp_path / "x.toml").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=says) as e:
            load_detector(path)
        assert "x.toml" in str(e.value)


def test_a_card_for_a_file_of_ones_own(tmp_path: Path) -> None:
    """Three classes, the person last: said in a card beside the file."""
    save(tmp_path / "own.pth", state_of(3))
    own = replace(
        find_card("rtmdet-ins-tiny"), name="own", aliases=(),
        detection=Detection(num_classes=3, person_class=2, score_threshold=0.0),
        weights=WeightsFile("own.pth", "pth"),
    )  # fmt: skip
    (tmp_path / "own.toml").write_text(own.to_toml())
    (people,) = load_detector(tmp_path / "own.toml").detect([Image(np.zeros((20, 30, 3), np.uint8))])
    assert len(people) and people.masks is not None
