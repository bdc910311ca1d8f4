"""Exported files: the same answers as torch, self-sufficient, and open to calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs the extra bodyloop[export]")
onnx = pytest.importorskip("onnx", reason="needs the extra bodyloop[export]")
pytest.importorskip("onnxscript", reason="needs the extra bodyloop[export]")

from bodyloop import skeletons  # noqa: E402
from bodyloop.api import load_pose  # noqa: E402
from bodyloop.engines.onnx import OnnxEngine  # noqa: E402
from bodyloop.engines.torch import TorchEngine  # noqa: E402
from bodyloop.errors import FileError, ModelError  # noqa: E402
from bodyloop.maps import decode, oks_variances  # noqa: E402
from bodyloop.models.cards import Card, Decode, Double, Licenses, Preprocess  # noqa: E402
from bodyloop.models.export import export_onnx, pose_function  # noqa: E402
from bodyloop.nn.heads import DoubleHead, Head, PlainHead, ProbabilityHead  # noqa: E402
from bodyloop.nn.topdown import TopDown  # noqa: E402
from bodyloop.nn.vit import ViT  # noqa: E402
from bodyloop.pose.crops import normalise  # noqa: E402
from bodyloop.pose.estimator import PoseModel  # noqa: E402

pytestmark = pytest.mark.slow  # an export takes torch some ten seconds

SKELETON = skeletons.COCO
HEADS: dict[str, type[Head]] = {"probability": ProbabilityHead, "plain": PlainHead, "double": DoubleHead}


def network(head: str = "probability") -> TopDown:
    """A ViT of two thin blocks with maps that have clear maxima."""
    torch.manual_seed(3)
    net = TopDown(ViT(dim=32, depth=2, heads=2, hidden=64, drop_path=0.1), HEADS[head](32, len(SKELETON)))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("head") and p.ndim > 1:
                p.copy_(torch.randn(p.shape) * (1.5 / p[0].numel() ** 0.5))
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.running_var.fill_(0.7)
        net.head.final_layer.weight.mul_(8)
        for name, p in net.named_parameters():
            if ".12." in name:  # side branches: away from 0 and 1, where a sigmoid says nothing any more
                p.mul_(0.3)
    return net.eval()


def card(head: str = "probability", **decode: object) -> Card:
    sides = () if head == "plain" else ("presence", "visibility", "quality")
    double = Double() if head == "double" else None
    temperature = 1.0 if head == "plain" else 0.5
    return Card(
        name="thin",
        kind="pose",
        architecture="vit-s",
        licenses=Licenses("Apache-2.0", "none", "none"),
        preprocess=Preprocess(size=(192, 256), map_size=(48, 64)),
        head=head,  # type: ignore[arg-type]
        skeleton=SKELETON,
        decode=Decode(**{"method": "dark-udp", "temperature": temperature, "double": double, **decode}),  # type: ignore[arg-type]
        outputs=("maps", *sides),
    )


def crops(n: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 16, 12, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def full(folder: Path) -> Path:
    path = folder / "full.onnx"
    export_onnx(network(), card(), path, half=False)
    return path


@pytest.fixture(scope="module")
def half(folder: Path) -> Path:
    path = folder / "half.onnx"
    export_onnx(network(), card(), path)
    return path


@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_says_what_torch_says(full: Path, batch: int) -> None:
    engine = OnnxEngine(full, threads=1)
    assert engine.inputs == ("crops",)
    expected = TorchEngine(pose_function(network(), card())).run({"crops": crops(batch)}, engine.outputs)
    got = engine.run({"crops": crops(batch)}, engine.outputs)
    assert set(engine.outputs) == {
        "keypoints", "map_scores", "maps", "logits", "presence", "visibility", "quality", "features"
    }  # fmt: skip
    for name, value in got.items():
        assert value.shape == expected[name].shape and value.dtype == np.float32
        tolerance = 0.01 if name == "keypoints" else 2e-5
        np.testing.assert_allclose(value, expected[name], atol=tolerance, err_msg=name)
    assert got["maps"].max() > 0.05  # clear maxima, or nothing would be tested
    assert np.ptp(got["keypoints"], axis=(0, 1)).min() > 50


def test_each_output_alone_is_the_same(full: Path) -> None:
    engine = OnnxEngine(full, threads=1)
    everything = engine.run({"crops": crops(2)}, engine.outputs)
    for name in engine.outputs:
        alone = engine.run({"crops": crops(2)}, [name])[name]
        np.testing.assert_allclose(alone, everything[name], atol=1e-4, err_msg=name)


def test_half_weights_cost_little_and_halve_the_file(full: Path, half: Path) -> None:
    assert half.stat().st_size < 0.62 * full.stat().st_size
    a, b = (OnnxEngine(p, threads=1).run({"crops": crops(4)}, ["maps", "presence"]) for p in (full, half))
    for name in a:
        assert 0 < np.abs(a[name] - b[name]).max() < 0.02
    kinds = {i.data_type for i in onnx.load(half).graph.initializer if len(i.dims) > 1}
    assert onnx.TensorProto.FLOAT16 in kinds


def test_standard_operators_and_nothing_sorted(half: Path) -> None:
    model = onnx.load(half)
    assert {o.domain for o in model.opset_import} <= {""}
    operators = {n.op_type for n in model.graph.node}
    assert not operators & {"TopK", "Sort", "Loop", "If", "Scan", "NonZero", "Dropout", "BatchNormalization"}
    assert {n.domain for n in model.graph.node} <= {""}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert dims[0].dim_param == "batch" and all(d.dim_value > 0 for d in list(dims)[1:]), value.name


def test_the_card_travels_along(half: Path) -> None:
    inside = Card.from_metadata(OnnxEngine(half).metadata)
    assert inside is not None
    assert inside.preprocess.input == "uint8-nhwc" and inside.weights is not None
    assert inside.weights.file == "half.onnx" and inside.weights.format == "onnx"
    back = replace(inside, weights=None, preprocess=replace(inside.preprocess, input=card().preprocess.input))
    assert back == card()


def test_temperatures_are_named_and_can_be_changed(full: Path, folder: Path) -> None:
    model = onnx.load(full)
    named = {i.name: i for i in model.graph.initializer}
    values = {"maps": 0.25, "presence": 2.0, "visibility": 0.5, "quality": 4.0}
    for name, value in values.items():
        was = onnx.numpy_helper.to_array(named[f"temperature.{name}"])
        assert was.shape == () and was == (0.5 if name == "maps" else 1.0)
        named[f"temperature.{name}"].CopyFrom(
            onnx.numpy_helper.from_array(np.array(value, np.float32), f"temperature.{name}")
        )
    engine = OnnxEngine(model.SerializeToString(), threads=1)
    calibrated = card(**{"temperature" if n == "maps" else f"{n}_temperature": v for n, v in values.items()})
    expected = TorchEngine(pose_function(network(), calibrated)).run({"crops": crops(2)}, list(values))
    before = OnnxEngine(full, threads=1).run({"crops": crops(2)}, list(values))
    for name, value in engine.run({"crops": crops(2)}, list(values)).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-5, err_msg=name)
        assert np.abs(value - before[name]).max() > 1e-3


def test_load_pose_takes_the_file(half: Path) -> None:
    pose = load_pose(half, threads=1)
    picture = crops(1, seed=5)[0]
    boxes = [[20, 30, 150, 220], [60, 60, 190, 250]]
    same = PoseModel(TorchEngine(pose_function(network(), card())), card())
    for flip in (False, True):
        a, b = (m.predict(picture, boxes, flip=flip) for m in (pose, same))
        assert a.presence is not None and b.presence is not None
        np.testing.assert_allclose(a.presence, b.presence, atol=5e-3)
        assert a.keypoints is not None and b.keypoints is not None
        off = np.abs(a.keypoints - b.keypoints).max(axis=-1)
        assert np.median(off) < 0.1
    assert load_pose(half, threads=1).engine is pose.engine  # kept, not loaded again


def test_the_flip_average_in_the_function_is_the_one_outside(full: Path) -> None:
    inside = PoseModel(TorchEngine(pose_function(network(), card())), card())
    outside = load_pose(full, threads=1)
    picture = crops(1, seed=6)[0]
    a, b = (m.predict(picture, [[20, 30, 150, 220]], flip=True) for m in (inside, outside))
    assert a.allclose(b, atol=0.01)


@pytest.mark.parametrize("head", ["plain", "double"])
def test_other_heads(folder: Path, head: str) -> None:
    path = folder / f"{head}.onnx"
    export_onnx(network(head), card(head), path, half=False)
    engine = OnnxEngine(path, threads=1)
    expected = TorchEngine(pose_function(network(head), card(head))).run({"crops": crops(2)}, engine.outputs)
    got = engine.run({"crops": crops(2)}, engine.outputs)
    for name in engine.outputs:
        tolerance = 0.01 if name == "keypoints" else 5e-5
        np.testing.assert_allclose(got[name], expected[name], atol=tolerance, err_msg=name)
    assert ("maps_outer" in engine.outputs) == (head == "double")
    assert ("presence" in engine.outputs) == (head == "double")
    people = load_pose(path, threads=1).predict(crops(1)[0], "image")
    assert people.keypoints is not None and people.keypoints.shape == (1, len(SKELETON), 2)


def test_expected_oks_and_bgr_inside_the_file(folder: Path) -> None:
    own = card(method="expected-oks")
    own = replace(own, preprocess=replace(own.preprocess, order="bgr"))
    path = folder / "oks.onnx"
    export_onnx(network(), own, path, half=False, outputs=["keypoints", "maps"])
    engine = OnnxEngine(path, threads=1)
    assert engine.outputs == ("keypoints", "maps")
    got = engine.run({"crops": crops(2)}, engine.outputs)
    inside = TorchEngine(pose_function(network(), own)).run({"crops": crops(2)}, engine.outputs)
    fed = normalise(crops(2), own.preprocess.mean, own.preprocess.std, "bgr")
    with torch.no_grad():
        maps = network()(torch.from_numpy(fed), ["maps"])["maps"].numpy()
    np.testing.assert_allclose(got["maps"], maps, atol=2e-5)
    np.testing.assert_allclose(got["keypoints"], inside["keypoints"], atol=0.01)
    points = decode(maps, "expected_oks", oks_variances(SKELETON.sigma_array)).points
    np.testing.assert_allclose(got["keypoints"], points * (191 / 47, 255 / 63), atol=0.01)


def test_the_network_is_left_as_it_was(folder: Path) -> None:
    net = network().train()
    before = net.head.sparsemax  # type: ignore[union-attr]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    export_onnx(net, card(), folder / "again.onnx", outputs=["presence"])
    assert net.training and net.head.sparsemax is before  # type: ignore[union-attr]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    path = folder / "never.onnx"
    with pytest.raises(ModelError, match="error"):
        export_onnx(network(), card(), path, outputs=["error"])  # untrained: not exported
    with pytest.raises(ModelError, match="num_keypoints"):
        export_onnx(network(), replace(card(), skeleton=skeletons.BODY_19), path)
    with pytest.raises(ModelError, match="presence"):
        export_onnx(network("plain"), card("probability"), path)
    with pytest.raises(ModelError, match="size"):
        export_onnx(network(), replace(card(), preprocess=replace(card().preprocess, size=(96, 128))), path)
    assert not path.exists()


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere"):
        export_onnx(network(), card(), folder / "nowhere" / "x.onnx", outputs=["presence"])


def test_a_published_layout_with_clear_maxima(folder: Path) -> None:
    """PMPose-s with the fixtures' random weights, on the fixtures' crops."""
    import cv2

    from bodyloop.models.build import build_network
    from bodyloop.models.checkpoints import load_into
    from bodyloop.models.registry import find_card
    from tests.parity.manifest import FIXTURES
    from tests.parity.weights import make_state

    own = find_card("pmpose-s")
    net = build_network(own, meta=True)
    load_into(net, make_state(FIXTURES / "keys" / "PMPose-s.json"))
    path = folder / "pmpose-s.onnx"
    export_onnx(net, own, path, half=False)
    names = ["crop_0.png", "crop_0_masked.png", "crop_1.png", "crop_4.png"]
    x = np.stack([cv2.imread(str(FIXTURES / "crops" / n))[..., ::-1] for n in names])
    outputs = ["maps", "keypoints", "presence", "visibility", "quality"]
    expected = TorchEngine(pose_function(net, own)).run({"crops": x}, outputs)
    got = OnnxEngine(path, threads=1).run({"crops": x}, outputs)
    for name in ("maps", "presence", "visibility", "quality"):
        np.testing.assert_allclose(got[name], expected[name], atol=1e-4, err_msg=name)
    best = np.sort(expected["maps"].reshape(len(x), len(own.skeleton), -1), axis=-1)[..., -2:]  # type: ignore[arg-type]
    clear = (best[..., 1] - best[..., 0]) / best[..., 1] > 0.01
    assert clear.mean() > 0.75  # the others are skipped: their maximum is nearly shared by another cell
    off = np.abs(got["keypoints"] - expected["keypoints"]).max(axis=-1)
    assert (off[clear] <= 0.05).all()
