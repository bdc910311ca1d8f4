"""The same weights with another card: nothing else changes, and ONNX and torch stay one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bodyloop
from bodyloop.engines import _edit
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import FileError, ModelError
from bodyloop.geometry import Crop
from bodyloop.images import read
from bodyloop.models._safetensors import read_metadata, read_safetensors, write_safetensors
from bodyloop.models.cards import Card
from bodyloop.models.registry import ASSETS, find_card, resolve
from bodyloop.models.rewrite import newton_steps, rewrite
from bodyloop.pose.crops import warp_crops
from tests.calibrate.standin import write_model

onnx = pytest.importorskip("onnx", reason="the tests look into ONNX files with the onnx package")

SHIPPED = ASSETS / "pmpose-n.onnx"
WEIGHTS = Path(__file__).parents[2] / "weights" / "pmpose-n.safetensors"
PHOTOS = Path(bodyloop.__file__).parent / "assets" / "photos"


def warmer(card: Card, temperature: float = 6.25) -> Card:
    assert card.decode is not None
    decode = replace(
        card.decode, temperature=temperature, presence_temperature=1.25, visibility_temperature=0.75,
        quality_temperature=1.5, presence_threshold=0.9,
    )  # fmt: skip
    return replace(card, decode=decode, summary="with other temperatures")


def crops() -> npt.NDArray[np.uint8]:
    out = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        image = read(path)
        w, h = image.size
        boxes = [[0.2 * w, 0.1 * h, 0.8 * w, 0.95 * h], [0.4 * w, 0.2 * h, 0.7 * w, 0.9 * h]]
        out.append(warp_crops(image.pixels, Crop.from_boxes(boxes)))
    return np.concatenate(out)[:8]


# --- ONNX ------------------------------------------------------------------------------------------------


def test_no_change_is_no_change() -> None:
    data = SHIPPED.read_bytes()
    assert _edit.edited(data, {}, {}) == data


def test_only_temperatures_card_and_steps_change(tmp_path: Path) -> None:
    card = warmer(find_card("pmpose-n"))
    steps = newton_steps(SHIPPED)
    assert steps is not None
    written = rewrite(SHIPPED, tmp_path / "new.onnx", card, steps=steps + 3)
    assert find_card(tmp_path / "new.onnx") == written
    assert written == replace(card, weights=written.weights)
    assert newton_steps(tmp_path / "new.onnx") == steps + 3
    old, new = onnx.load(SHIPPED), onnx.load(tmp_path / "new.onnx")
    onnx.checker.check_model(new, full_check=True)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in new.graph.initializer}
    for name, value in (("maps", 6.25), ("presence", 1.25), ("visibility", 0.75), ("quality", 1.5)):
        assert values[f"temperature.{name}"] == np.float32(value)
    for t in old.graph.initializer:
        if not t.name.startswith("temperature."):
            a, b = onnx.numpy_helper.to_array(t), values[t.name]
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()  # half precision stays half
    kinds = [n.op_type for n in new.graph.node]
    assert len(kinds) == len(old.graph.node) + 3 * 10
    assert [o.name for o in new.graph.output] == [o.name for o in old.graph.output]


@pytest.mark.parametrize("more", [0, 1, 5])
def test_more_steps_are_steps_of_the_same_sparsemax(tmp_path: Path, more: int) -> None:
    """From too few to enough: each appended step does what another step would have done."""
    few, grown = write_model(tmp_path / "few.onnx", steps=3), tmp_path / "grown.onnx"
    rewrite(few, grown, find_card(few), steps=3 + more)
    whole = write_model(tmp_path / "whole.onnx", steps=3 + more)
    feed = {"crops": np.full((2, 64, 48, 3), 90, np.uint8)}
    a, b = (OnnxEngine(p, threads=1).run(feed, ["maps", "presence"]) for p in (grown, whole))
    np.testing.assert_array_equal(a["maps"], b["maps"])
    np.testing.assert_array_equal(a["presence"], b["presence"])
    assert newton_steps(grown) == 3 + more
    assert (
        OnnxEngine(grown, threads=1).run(feed, ["maps"])["maps"].shape == a["maps"].shape
    )  # cut to one output


def test_steps_are_never_taken_away(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.onnx", steps=6)
    rewrite(source, tmp_path / "new.onnx", find_card(source), steps=4)
    assert newton_steps(tmp_path / "new.onnx") == 6


def test_files_without_what_calibration_changes(tmp_path: Path) -> None:
    detector = resolve("rtmdet-n")[1]
    assert newton_steps(detector) is None
    model = onnx.load(write_model(tmp_path / "m.onnx"))
    for t in model.graph.initializer:
        if t.name == "temperature.presence":
            t.name = "elsewhere"
    for n in model.graph.node:
        for i, name in enumerate(n.input):
            if name == "temperature.presence":
                n.input[i] = "elsewhere"
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"other\.onnx: the file has no number temperature\.presence to set"):
        rewrite(tmp_path / "other.onnx", tmp_path / "out.onnx", find_card(tmp_path / "m.onnx"))
    assert not (tmp_path / "out.onnx").exists()
    (tmp_path / "broken.onnx").write_bytes(SHIPPED.read_bytes()[:5000])
    with pytest.raises(ModelError, match="truncated"):
        newton_steps(tmp_path / "broken.onnx")
    with pytest.raises(FileError, match="cannot read"):
        newton_steps(tmp_path / "none.onnx")


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new.onnx"
    target.write_bytes(b"before")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="No space left"):
        rewrite(SHIPPED, target, find_card("pmpose-n"), overwrite=True)
    assert target.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


# --- torch -----------------------------------------------------------------------------------------------


def test_torch_weights_keep_their_bytes_and_their_origin(tmp_path: Path) -> None:
    card = find_card("pmpose-n")
    tensors = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.float32([1, 2]), "n": np.array(3)}
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    write_safetensors(old, tensors, {**card.to_metadata(), "bodyloop.source": "x.pth"})
    written = rewrite(old, new, warmer(card))
    assert written.weights is not None
    assert (written.weights.file, written.weights.format) == ("new.safetensors", "safetensors")
    got, metadata = read_safetensors(new)
    assert Card.from_metadata(metadata) == written and metadata["bodyloop.source"] == "x.pth"
    assert got.keys() == tensors.keys()
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype and np.array_equal(got[name], value)
    assert Card.from_metadata(read_metadata(old)) == card  # the old one stays
    assert newton_steps(new) is None


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the extra bodyloop[export]")
    pytest.importorskip("onnxscript", reason="needs the extra bodyloop[export]")
    if not WEIGHTS.is_file():
        pytest.skip("needs weights/ of the repository")
    from bodyloop.models.build import load_network
    from bodyloop.models.export import export_onnx

    path, card = tmp_path_factory.mktemp("exported") / "plain.onnx", find_card(WEIGHTS)
    export_onnx(load_network(card, WEIGHTS), card, path, half=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [2.0, 30.0])
def test_calibrated_onnx_and_torch_files_give_equal_maps(
    tmp_path: Path, exported: Path, temperature: float
) -> None:
    """On real crops, at a cooler and a warmer temperature; tolerances as where the shipped file is tested."""
    from bodyloop.calibrate import steps_needed
    from bodyloop.engines.torch import TorchEngine
    from bodyloop.models.build import load_network
    from bodyloop.models.export import pose_function

    card, feed = find_card(WEIGHTS), {"crops": crops()}
    plain = OnnxEngine(exported, threads=1).run(feed, ["logits", "maps"])
    steps = steps_needed(np.asarray(plain["logits"], np.float32), temperature, 1)
    rewrite(exported, tmp_path / "new.onnx", warmer(card, temperature), steps=steps)
    rewrite(WEIGHTS, tmp_path / "new.safetensors", warmer(card, temperature))
    own = find_card(tmp_path / "new.safetensors")
    module = pose_function(load_network(own, tmp_path / "new.safetensors"), own)
    names = ["maps", "presence", "visibility", "quality", "keypoints"]
    a = OnnxEngine(tmp_path / "new.onnx", threads=1).run(feed, names)
    b = TorchEngine(module).run(feed, names)
    for name in names:
        tolerance = 0.05 if name == "keypoints" else 1e-4
        np.testing.assert_allclose(a[name], b[name], atol=tolerance, err_msg=name)
    moved = np.abs(np.asarray(a["maps"], float) - np.asarray(plain["maps"], float)).max()
    assert moved > 0.005  # it is another temperature
