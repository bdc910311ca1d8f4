"""Published checkpoints: the stored sample of their make, and every key list in every format that is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import ModelError
from bodyloop.models.checkpoints import Checkpoint, convert, infer_card, load_into, prepare, read_checkpoint
from bodyloop.models.keymaps import COUNTER, count_parameters, fit_pos_embed, layout
from bodyloop.models.registry import find_card, list_models
from tests.models.synthetic import as_huggingface, as_vitpose, save_pth
from tests.parity.manifest import FIXTURES, compare, given, load_json
from tests.parity.weights import make_tensor

SAMPLE = FIXTURES / "checkpoint_sample.pth"
CARDS = {  # key list to the card of the same model
    "ProbPose-s": "probpose-s",
    "ProbPose-DH-s": "probpose-s-dh",
    "ViTPose-b-multi": "vitpose-b-multi",
    "MaskPose-b-1.0.0": "maskpose-b-1.0.0",
    **{f"PMPose-{s}": f"pmpose-{s}" for s in "sblh"},
    **{f"MaskPose-{s}": f"maskpose-{s}" for s in "sblh"},
    **{f"MaskPose-{s}-wb": f"maskpose-{s}-wb" for s in "sblh"},
}


def keys(name: str) -> dict[str, tuple[int, ...]]:
    return {n: tuple(shape) for n, shape, _ in load_json(f"keys/{name}.json")["tensors"]}


def weightless(name: str) -> dict[str, np.ndarray]:
    """A state dict of the right shapes that takes no memory."""
    return {
        n: np.array(0, np.int64) if n.endswith(COUNTER) else np.broadcast_to(np.float32(0), shape)
        for n, shape in keys(name).items()
    }


def test_every_key_list_has_its_card() -> None:
    assert set(CARDS) == {p.stem for p in (FIXTURES / "keys").glob("*.json")}


@pytest.mark.parametrize("name", CARDS)
def test_layout_is_the_published_one(name: str) -> None:
    card = find_card(CARDS[name])
    stored = load_json(f"keys/{name}.json")
    ours = layout(card.architecture, card.num_keypoints, str(card.head))
    assert list(ours.items()) == [(n, tuple(s)) for n, s, _ in stored["tensors"]]
    assert count_parameters(ours) == stored["num_params"] == card.parameters
    if card.weights is not None:
        assert card.weights.size_bytes == stored["bytes_float32"]


@pytest.mark.parametrize("name", CARDS)
def test_state_dicts_fit_their_card_and_no_other(name: str) -> None:
    state = weightless(name)
    card = find_card(CARDS[name])
    assert set(prepare(Checkpoint(Path(name), state), card)) == set(state)
    for other in list_models("pose"):
        same = (other.architecture, other.num_keypoints, other.head)
        if same != (card.architecture, card.num_keypoints, card.head) and other.architecture.startswith(
            "vit-"
        ):
            with pytest.raises(ModelError, match=f"does not fit {re.escape(other.name)}"):
                prepare(Checkpoint(Path(name), state), other)


@pytest.mark.parametrize("name", CARDS)
def test_bare_state_dicts_are_recognised_or_refused(name: str) -> None:
    checkpoint = Checkpoint(Path(name), weightless(name))
    if name in ("ViTPose-b-multi", "MaskPose-b-1.0.0"):
        with pytest.raises(ModelError, match=r"maskpose-b-1\.0\.0, vitpose-b-multi"):
            infer_card(checkpoint)
    else:
        assert infer_card(checkpoint).name == CARDS[name]


def test_sample_of_the_training_framework() -> None:
    """A training checkpoint with metadata, history, optimiser and 193 positions, made by the framework."""
    sample = read_checkpoint(SAMPLE)
    shapes = {
        "backbone.pos_embed": (1, 193, 4),
        "backbone.ln1.weight": (4,),
        "head.final_layer.bias": (23,),
        "head.deconv_layers.1.num_batches_tracked": (),
        "head.error_layers.12.bias": (23,),
    }
    assert {n: v.shape for n, v in sample.state.items()} == shapes
    for name, shape in shapes.items():
        dtype = "int64" if name.endswith(COUNTER) else "float32"
        expected = make_tensor(name, shape, dtype)
        assert sample.state[name].dtype == expected.dtype
        np.testing.assert_array_equal(sample.state[name], expected)


def test_metadata_of_the_sample() -> None:
    meta = read_checkpoint(SAMPLE).metadata
    assert (meta["epoch"], meta["iter"], meta["mmengine_version"]) == (3, 12, "0.10.7")
    table = meta["dataset_meta"]
    skeleton = find_card("pmpose-s").skeleton
    assert skeleton is not None
    assert table["num_keypoints"] == 23
    assert table["flip_indices"] == skeleton.flip.tolist()
    assert len(table["sigmas"]) == 23 and table["sigmas"][0] == pytest.approx(0.026, abs=1e-7)


def test_position_embedding() -> None:
    square = given("nets/pos_embed.npz", "square")
    compare("nets/pos_embed.npz", "square_to_16x12", fit_pos_embed(square, (16, 12)), 1e-5)


@pytest.fixture(scope="module")
def maskpose_s() -> dict[str, np.ndarray]:
    return {n: make_tensor(n, s, t) for n, s, t in load_json("keys/MaskPose-s.json")["tensors"]}


@pytest.mark.parametrize("make", ["zip", "legacy", "vitpose", "huggingface"])
def test_a_whole_network_through_every_format(
    tmp_path: Path, maskpose_s: dict[str, np.ndarray], make: str
) -> None:
    """Weights to a file of each make, converted, loaded into the network: the numbers arrive unchanged."""
    torch = pytest.importorskip("torch")
    from bodyloop.nn.topdown import build_pose

    state = {"vitpose": as_vitpose, "huggingface": as_huggingface}.get(make, dict)(maskpose_s)
    source = save_pth(tmp_path / "in.pth", state, legacy=make == "legacy")
    done = convert(source, tmp_path / "out.safetensors")
    assert done.card.name == "maskpose-s" and done.parameters == 24_291_735
    with torch.device("meta"):
        net = build_pose("vit-s", 23, "plain")
    load_into(net, read_checkpoint(done.target).state)
    for name, tensor in net.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), maskpose_s[name], rtol=0, atol=1e-6, err_msg=name)
