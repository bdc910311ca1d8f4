"""Models by name, by file, by repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import BodyloopError, ConfigError, FileError, ModelError
from bodyloop.models import keymaps, registry
from bodyloop.models.cards import Card, WeightsFile
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.models.registry import find_card, is_embedded, list_models, resolve
from tests.models.synthetic import TINY, save_pth, state_of, tiny
from tests.models.test_cards import DETECTOR, POSE


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("probpose-s", "probpose-s"),
        ("PMPose-b", "pmpose-b"),
        ("PMPose_b", "pmpose-b"),
        (" pmpose ", "pmpose-b"),
        ("MaskPose-b-1.1.0", "maskpose-b"),
        ("maskpose-b-1.0.0", "maskpose-b-1.0.0"),
        ("maskpose-wb-l", "maskpose-l-wb"),
        ("ProbPose-DH", "probpose-s-dh"),
        ("vitpose-base-simple", "vitpose-b-simple"),
        ("usyd-community/vitpose-plus-huge", "vitpose-plus-h"),
        ("vrg-prague/BBoxMaskPose/PMPose/PMPose-l-1.0.0.pth", "pmpose-l"),
    ],
)
def test_what_users_type(typed: str, name: str) -> None:
    assert find_card(typed).name == name


def test_listing_is_sorted_and_has_no_double_names() -> None:
    cards = list_models()
    names = [c.name for c in cards]
    assert names == sorted(names)
    every = [n for c in cards for n in (c.name, *c.aliases)]
    assert len(every) == len(set(every))
    assert set(list_models("pose")) | set(list_models("detector")) | set(list_models("segmenter")) == set(
        cards
    )


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'pmpose-b'"):
        find_card("pmpos-b")
    with pytest.raises(ModelError, match=r"unknown model 'zzzz'.*probpose-s"):
        find_card("zzzz")


def test_a_repository_with_several_models() -> None:
    with pytest.raises(ModelError, match=r"several models.*maskpose-b.*pmpose-b"):
        find_card("vrg-prague/BBoxMaskPose")


def test_another_revision_drops_the_sum() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    weights = find_card(f"usyd-community/vitpose-base@{commit}").weights
    assert weights is not None and weights.revision == commit and weights.sha256 is None
    with pytest.raises(ModelError, match="revision"):
        find_card("usyd-community/vitpose-base@../x")


@pytest.mark.parametrize(
    "typed", ["nowhere.pth", "./nowhere.onnx", "runs/a/best.safetensors", "~/x.toml", "a/b.pth"]
)
def test_files_that_are_not_there(typed: str) -> None:
    with pytest.raises(FileError, match="there is no file"):
        find_card(typed)


@pytest.mark.parametrize(
    "typed", ["", " ", "/", "a//b", "../x", "x" * 5000, "\0", "a\nb", "@", "*", "photo.jpg"]
)
def test_nonsense(typed: str) -> None:
    with pytest.raises(BodyloopError) as e:
        find_card(typed)
    assert len(str(e.value)) < 2000


def test_a_card_file_and_its_weights(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(POSE)
    assert find_card(tmp_path / "mine.toml").name == "mine"
    with pytest.raises(ModelError, match=r"mine: its weights .*mine\.safetensors are not there"):
        resolve(tmp_path / "mine.toml")
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    assert resolve(str(tmp_path / "mine.toml"))[1] == tmp_path / "mine.safetensors"
    # the other way round: the weights, with the card beside them
    assert resolve(tmp_path / "mine.safetensors") == (Card.from_toml(POSE), tmp_path / "mine.safetensors")


def test_a_safetensors_file_carries_its_card(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x.safetensors", {"a": np.ones(1, np.float32)}, Card.from_toml(POSE))
    assert resolve(tmp_path / "x.safetensors") == (Card.from_toml(POSE), tmp_path / "x.safetensors")


def test_an_onnx_file_carries_its_card(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph)
    onnx.save(model, str(tmp_path / "bare.onnx"))
    with pytest.raises(ModelError, match=r"bare\.onnx: holds no card.*bare\.toml"):
        find_card(tmp_path / "bare.onnx")
    helper.set_model_props(model, Card.from_toml(DETECTOR).to_metadata())
    onnx.save(model, str(tmp_path / "x.onnx"))
    assert find_card(tmp_path / "x.onnx") == Card.from_toml(DETECTOR)
    helper.set_model_props(model, {"bodyloop.card": "name = 3"})
    onnx.save(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(ConfigError, match=r"bad\.onnx.*name"):
        find_card(tmp_path / "bad.onnx")


@pytest.mark.parametrize("content", [b"", b"x", b"\x08" * 100, b"PK\x03\x04", b"\xff" * 50])
@pytest.mark.parametrize("name", ["x.onnx", "x.pth", "x.safetensors", "x.pt"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BodyloopError, match=name):
        find_card(path)


def test_a_bare_weight_file_is_recognised_or_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(keymaps._VITS, *TINY)
    cards = [
        replace(find_card("vitpose-b"), name=n, architecture="vit-t", weights=None) for n in ("one", "two")
    ]
    path = save_pth(tmp_path / "x.pth", tiny(keypoints=17))
    monkeypatch.setattr(registry, "list_models", lambda: tuple(cards[:1]))
    assert find_card(path).name == "one"
    monkeypatch.setattr(registry, "list_models", lambda: tuple(cards))
    with pytest.raises(ModelError, match=r"fits several models \(one, two\)"):
        find_card(path)
    assert resolve(path, card=cards[1]) == (cards[1], path)
    assert resolve(path, card="vitpose-b")[0].name == "vitpose-b"


def test_card_is_for_files_only() -> None:
    with pytest.raises(ModelError, match="is none"):
        resolve("pmpose-b", card="pmpose-s")


def test_cards_are_taken_as_they_are() -> None:
    card = Card.from_toml(POSE)
    assert find_card(card) is card
    known = find_card("pmpose-b")
    assert find_card(known) == known


def test_embedded_models_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    card = replace(find_card("pmpose-s"), weights=WeightsFile("pmpose-s.onnx", "onnx"), summary="embedded")
    (assets / "pmpose-s.toml").write_text(card.to_toml())
    (assets / "pmpose-s.onnx").write_bytes(b"x")
    monkeypatch.setattr(registry, "ASSETS", assets)
    registry._catalogue.cache_clear()
    try:
        assert find_card("pmpose-s").summary == "embedded"
        assert resolve("pmpose-s")[1] == assets / "pmpose-s.onnx"
        assert is_embedded(find_card("pmpose-s")) and not is_embedded(find_card("pmpose-b"))
    finally:
        registry._catalogue.cache_clear()


def test_shapes_that_no_card_has(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    shapes = {"backbone.pos_embed": (1, 192, 384), "head.final_layer.weight": (99, 256, 1, 1)}
    shapes |= {f"backbone.layers.{i}.ln1.bias": (384,) for i in range(12)}
    path = save_pth(tmp_path / "x.pth", state_of(shapes))
    with pytest.raises(ModelError, match=r"no card for vit-s, 99 keypoints"):
        find_card(path)


def test_a_folder_is_not_asked_for_on_the_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="is a folder"):
        find_card("runs/mine")
