"""The catalogue: one card a published weight or configuration, each complete and right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bodyloop.models.cards import Card, load_card
from bodyloop.models.keymaps import count_parameters, layout
from bodyloop.models.registry import CATALOG, list_models

FILES = sorted(p for p in CATALOG.glob("*.toml") if load_card(p).kind == "pose")
PUBLISHED = {
    "probpose-s": ("vrg-prague/ProbPose-s", "ProbPose-s.pth"),
    "maskpose-b-1.0.0": ("vrg-prague/BBoxMaskPose", "MaskPose/MaskPose-b-1.0.0.pth"),
    "vitpose-b-multi": ("vrg-prague/BBoxMaskPose", "ViTPose-b-multi_mmpose20.pth"),
    "vitpose-b": ("usyd-community/vitpose-base", "model.safetensors"),
    "vitpose-b-simple": ("usyd-community/vitpose-base-simple", "model.safetensors"),
    "vitpose-b-coco-aic-mpii": ("usyd-community/vitpose-base-coco-aic-mpii", "model.safetensors"),
    "vitpose-plus-s": ("usyd-community/vitpose-plus-small", "model.safetensors"),
    "vitpose-plus-b": ("usyd-community/vitpose-plus-base", "model.safetensors"),
    "vitpose-plus-l": ("usyd-community/vitpose-plus-large", "model.safetensors"),
    "vitpose-plus-h": ("usyd-community/vitpose-plus-huge", "model.safetensors"),
    **{f"pmpose-{s}": ("vrg-prague/BBoxMaskPose", f"PMPose/PMPose-{s}-1.0.0.pth") for s in "sblh"},
    **{f"maskpose-{s}": ("vrg-prague/BBoxMaskPose", f"MaskPose/MaskPose-{s}-1.1.0.pth") for s in "sblh"},
}
UNPUBLISHED = {"probpose-s-dh", "vitpose-s", *(f"maskpose-{s}-wb" for s in "sblh")}
# Specification, section 1: keypoints, head, decoder, dimming of the mask.
TABLE = {
    "probpose-s": (17, "probability", "expected-oks", None),
    "probpose-s-dh": (17, "double", "expected-oks", None),
    "vitpose-s": (17, "plain", "dark-udp", None),
    "vitpose-b-multi": (21, "plain", "dark-udp", None),
    "maskpose-b-1.0.0": (21, "plain", "dark-udp", 0.20),
    **{f"maskpose-{s}": (23, "plain", "dark-udp", 0.25) for s in "sblh"},
    **{f"maskpose-{s}-wb": (41, "plain", "dark-udp", 0.25) for s in "sblh"},
    **{f"pmpose-{s}": (23, "probability", "dark-udp", 0.25) for s in "sblh"},
}


def test_the_catalogue_is_complete() -> None:
    assert {p.stem for p in FILES} == set(PUBLISHED) | UNPUBLISHED
    assert set(TABLE) <= {c.name for c in list_models("pose")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_card_stands_alone(path: Path) -> None:
    card = load_card(path)
    assert card.name == path.stem
    assert Card.from_toml(card.to_toml()) == card
    assert Card.from_metadata(card.to_metadata()) == card
    assert card.summary and card.notes and card.training_data
    assert card.known_failures or card.weights is None
    assert (card.preprocess.size, card.preprocess.map_size) == ((192, 256), (48, 64))
    assert (card.preprocess.order, card.preprocess.padding) == ("rgb", 1.25)
    assert all(0 < row.value < 1 and row.source and row.boxes for row in card.accuracy)
    assert all((card.licenses.code, card.licenses.weights, card.licenses.data))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_parameters_are_those_of_the_network(path: Path) -> None:
    card = load_card(path)
    shapes = layout(card.architecture, card.num_keypoints, str(card.head))
    assert card.parameters == count_parameters(shapes)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_networks_of_nn_have_these_names(path: Path) -> None:
    torch = pytest.importorskip("torch")
    from bodyloop.nn.topdown import HEADS, build_pose

    card = load_card(path)
    if card.head not in HEADS:
        pytest.skip(f"no network with head {card.head!r} yet")
    with torch.device("meta"):
        net = build_pose(card.architecture, card.num_keypoints, card.head)
    expected = layout(card.architecture, card.num_keypoints, str(card.head))
    assert {n: tuple(t.shape) for n, t in net.state_dict().items()} == expected


@pytest.mark.parametrize("name", TABLE)
def test_constants_of_the_specification(name: str) -> None:
    card = load_card(CATALOG / f"{name}.toml")
    assert card.decode is not None and card.skeleton is not None
    found = (card.num_keypoints, card.head, card.decode.method, card.preprocess.mask_alpha)
    assert found == TABLE[name]
    assert card.decode.temperature == (1.0 if card.head == "plain" else 0.5)
    sides = {"presence", "visibility", "quality"}
    assert set(card.outputs) == ({"maps"} if card.head == "plain" else {"maps"} | sides)  # error is untrained
    assert bool(card.decode.quality_scale) == (card.head != "plain")


@pytest.mark.parametrize("name", PUBLISHED)
def test_where_the_weights_are(name: str) -> None:
    card = load_card(CATALOG / f"{name}.toml")
    assert card.weights is not None
    assert (card.weights.repository, card.weights.file) == PUBLISHED[name]
    assert card.weights.format == card.weights.file.rsplit(".", 1)[1]
    assert card.weights.size_bytes and card.weights.size_bytes > 4 * (card.parameters or 0)
    assert card.licenses.copyleft == card.weights.repository.startswith("vrg-prague/")
    assert (card.weights.expert is not None) == ("-plus-" in name)


def test_configurations_without_weights() -> None:
    for name in UNPUBLISHED:
        assert load_card(CATALOG / f"{name}.toml").weights is None


def test_published_numbers() -> None:
    rows = {(r.dataset, r.metric): r.value for r in load_card(CATALOG / "probpose-s.toml").accuracy}
    assert rows["COCO val2017", "AP"] == 0.766
    assert rows["CropCOCO", "AP"] == 0.817
    assert rows["CropCOCO", "Ex-AP"] == 0.739
    assert rows["OCHuman", "AP"] == 0.604
