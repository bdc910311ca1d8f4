"""Weight files: strict comparison, recognition, conversion, loading."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import FileError, ModelError
from bodyloop.models import keymaps
from bodyloop.models.cards import Card, WeightsFile
from bodyloop.models.checkpoints import (
    Checkpoint,
    convert,
    infer_card,
    load_into,
    load_weights,
    match,
    prepare,
    read_checkpoint,
    save_safetensors,
    sha256_of,
)
from bodyloop.models.registry import find_card
from bodyloop.skeletons import Skeleton
from tests.models.synthetic import (
    TINY,
    as_huggingface,
    as_vitpose,
    malicious_pickle,
    save_pth,
    tiny,
    with_experts,
)

FIVE = Skeleton.define("five", ["nose", "left_hand", "right_hand", "left_foot", "right_foot"])


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keymaps._VITS, *TINY)


def tiny_card(head: str = "plain", **changes: object) -> Card:
    like = find_card({"plain": "vitpose-b", "probability": "pmpose-s", "double": "probpose-s-dh"}[head])
    return replace(
        like, name=f"tiny-{head}", aliases=(), architecture="vit-t", skeleton=FIVE, weights=None, **changes
    )


def checkpoint(state: dict[str, np.ndarray], **more: object) -> Checkpoint:
    return Checkpoint(Path("x.pth"), state, **more)  # type: ignore[arg-type]


# Reading


@pytest.mark.parametrize("top", ["state_dict", "model", None])
def test_state_dicts_are_found_where_they_lie(tmp_path: Path, top: str | None) -> None:
    torch = pytest.importorskip("torch")
    inner = {"module.a": torch.ones(2), "module.b": torch.zeros(1)}
    torch.save({top: inner, "epoch": 3} if top else inner, tmp_path / "x.pth")
    assert set(read_checkpoint(tmp_path / "x.pth").state) == {"a", "b"}


def test_metadata_is_plain(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    meta = {
        "epoch": 3,
        "dataset_meta": {"flip_indices": [0, 2, 1], "sigmas": np.array([0.5, 0.25])},
        "f": print,
    }
    torch.save({"meta": meta, "state_dict": {"a": torch.ones(1)}}, tmp_path / "x.pth")
    got = read_checkpoint(tmp_path / "x.pth").metadata
    assert got["epoch"] == 3
    assert got["dataset_meta"] == {"flip_indices": [0, 2, 1], "sigmas": [0.5, 0.25]}
    assert got["f"] == "<Global>"


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"optimizer": 3}, "'optimizer'"),
        ({}, "no entries"),
        ([1, 2], "list"),
        (3, "int"),
    ],
)
def test_files_without_weights(tmp_path: Path, tree: object, says: str) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps(tree))
    with pytest.raises(ModelError, match=says):
        read_checkpoint(tmp_path / "x.pth")


def test_an_entry_that_is_no_tensor(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"a": torch.ones(1), "b": "text"}}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"x\.pth: entry 'b' is no tensor"):
        read_checkpoint(tmp_path / "x.pth")


def test_one_storage_many_times(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    shared = torch.zeros(300_000)
    torch.save({f"t{i}": shared for i in range(50)}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="many times the size"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.onnx", "x.safetensors"])
def test_suffix_and_content_disagree(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no such thing at all")
    with pytest.raises(ModelError, match=name):
        read_checkpoint(tmp_path / name)


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x.pth", tiny(), tiny_card())
    assert read_checkpoint(tmp_path / "x.pth").card == tiny_card()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_an_attack_has_no_weights_and_no_effect(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "x.pth").write_bytes(malicious_pickle(marker))
    with pytest.raises(ModelError, match="no weights"):
        read_checkpoint(tmp_path / "x.pth")
    assert not marker.exists()


# Comparing


def test_everything_that_does_not_fit_is_named_at_once() -> None:
    state = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32), "extra": np.zeros(1, np.float32)}
    with pytest.raises(ModelError) as e:
        match(state, {"a": (2,), "b": (4, 1), "c": (1,), "d": (2,)}, where="w.pth", what="net")
    text = str(e.value)
    assert text.startswith("w.pth does not fit net: ")
    for part in ("2 missing: c, d", "1 unexpected: extra", "1 of another shape: b is (3), expected (4, 1)"):
        assert part in text


def test_long_lists_are_counted() -> None:
    with pytest.raises(ModelError, match="9 missing: t0, t1, t2, t3, t4 and 4 more"):
        match({}, {f"t{i}": (1,) for i in range(9)})


def test_counters_do_not_count() -> None:
    one = np.zeros(1, np.float32)
    assert set(match({"a": one}, {"a": (1,), "n.num_batches_tracked": ()})) == {"a"}
    assert set(match({"a": one, "n.num_batches_tracked": np.array(3)}, {"a": (1,)})) == {"a"}
    odd = {"a": one, "n.num_batches_tracked": np.array([3])}
    assert set(match(odd, {"a": (1,), "n.num_batches_tracked": ()})) == {"a"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(bad: float) -> None:
    with pytest.raises(ModelError, match="1 tensors hold NaN, infinity or no floats: b"):
        match({"a": np.zeros(2), "b": np.array([0, bad])}, {"a": (2,), "b": (2,)})


def test_integers_are_no_weights() -> None:
    with pytest.raises(ModelError, match="no floats: a"):
        match({"a": np.zeros(2, np.int64)}, {"a": (2,)})


@pytest.mark.parametrize("translate", [dict, as_vitpose, as_huggingface])
def test_prepare_brings_any_dialect_to_the_card(translate) -> None:  # type: ignore[no-untyped-def]
    state = tiny()
    got = prepare(checkpoint(translate(state)), tiny_card())
    assert set(got) == set(state)
    np.testing.assert_allclose(got["backbone.pos_embed"], state["backbone.pos_embed"], atol=1e-6)


def test_prepare_folds_the_cards_expert() -> None:
    weights = WeightsFile("x.safetensors", "safetensors", expert=2)
    card = replace(tiny_card(), weights=weights)
    got = prepare(checkpoint(with_experts(as_huggingface(tiny()), chosen=2)), card)
    key = "backbone.layers.0.ffn.layers.1.weight"
    np.testing.assert_array_equal(got[key], tiny()[key])


def test_prepare_resizes_positions() -> None:
    state = tiny() | {"backbone.pos_embed": np.ones((1, 197, 32), np.float32)}
    got = prepare(checkpoint(state), tiny_card())
    assert got["backbone.pos_embed"].shape == (1, 192, 32)
    np.testing.assert_allclose(got["backbone.pos_embed"], 1, atol=1e-6)


def test_prepare_names_model_and_file() -> None:
    with pytest.raises(ModelError, match=r"x\.pth does not fit tiny-probability .*vit-t, 5 keypoints"):
        prepare(checkpoint(tiny()), tiny_card("probability"))
    with pytest.raises(
        ModelError, match=r"head\.final_layer\.weight is \(9, 256, 1, 1\), expected \(5, 256, 1, 1\)"
    ):
        prepare(checkpoint(tiny(keypoints=9)), tiny_card())


def test_the_error_branch_may_be_missing_as_a_whole() -> None:
    state = tiny("probability")
    without = {n: v for n, v in state.items() if not n.startswith("head.error_layers.")}
    assert set(prepare(checkpoint(without), tiny_card("probability"))) == set(without)
    half = {n: v for n, v in state.items() if n != "head.error_layers.0.weight"}
    with pytest.raises(ModelError, match=r"1 missing: head\.error_layers\.0\.weight"):
        prepare(checkpoint(half), tiny_card("probability"))


def test_another_left_right_table_is_said(caplog: pytest.LogCaptureFixture) -> None:
    own = {"dataset_meta": {"flip_indices": [0, 2, 1, 4, 3]}}
    other = {"dataset_meta": {"flip_indices": [0, 1, 2, 4, 3]}}
    with caplog.at_level(logging.WARNING):
        prepare(checkpoint(tiny(), metadata=own), tiny_card())
        assert not caplog.records
        prepare(checkpoint(tiny(), metadata=other), tiny_card())
    assert "left-right table" in caplog.text


def test_networks_without_a_key_list_bring_their_own() -> None:
    state = {"stem.weight": np.ones((2, 3), np.float32)}
    card = replace(tiny_card(), architecture="my-net")
    with pytest.raises(ModelError, match="no key list"):
        prepare(checkpoint(state), card)
    got = prepare(checkpoint(state), card, expected={"stem.weight": (2, 3)})
    np.testing.assert_array_equal(got["stem.weight"], state["stem.weight"])
    with pytest.raises(ModelError, match=rf"does not fit {card.name} .*expected \(3, 3\)"):
        prepare(checkpoint(state), card, expected={"stem.weight": (3, 3)})


# Recognising


def test_a_bare_file_that_fits_one_card() -> None:
    cards = [tiny_card(), tiny_card("probability"), tiny_card("double")]
    for card in cards:
        state = tiny(str(card.head))
        assert infer_card(checkpoint(state), cards) is card
        assert infer_card(checkpoint(state, card=cards[0]), cards) is cards[0]


def test_a_bare_file_that_fits_several_is_refused() -> None:
    cards = [tiny_card(), replace(tiny_card(), name="tiny-other"), tiny_card("probability")]
    with pytest.raises(ModelError, match=r"x\.pth: fits several models \(tiny-plain, tiny-other\)"):
        infer_card(checkpoint(tiny()), cards)


def test_experts_tell_models_apart() -> None:
    plain = tiny_card()
    moe = replace(plain, name="tiny-moe", weights=WeightsFile("x.safetensors", "safetensors", expert=0))
    assert infer_card(checkpoint(as_huggingface(tiny())), [plain, moe]) is plain
    assert infer_card(checkpoint(with_experts(as_huggingface(tiny()))), [plain, moe]) is moe


def test_files_nobody_knows() -> None:
    with pytest.raises(ModelError, match="not the weights of a known network"):
        infer_card(checkpoint({"a": np.zeros(1, np.float32)}), [tiny_card()])
    with pytest.raises(ModelError, match="no card for vit-t, 9 keypoints"):
        infer_card(checkpoint(tiny(keypoints=9)), [tiny_card()])


# Converting


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_convert_keeps_numbers_card_and_origin(tmp_path: Path, legacy: bool) -> None:
    pytest.importorskip("torch")
    state, card = tiny("probability"), tiny_card("probability")
    source = save_pth(tmp_path / "in.pth", {f"module.{n}": v for n, v in state.items()}, legacy=legacy)
    done = convert(source, tmp_path / "out.safetensors", card)
    assert done.card == card and done.tensors == len(state)
    shapes = {n: v.shape for n, v in state.items()}
    assert done.parameters == keymaps.count_parameters(shapes)
    got = read_checkpoint(done.target)
    assert got.card == card
    assert got.metadata["bodyloop.source"] == "in.pth"
    assert got.metadata["bodyloop.source_sha256"] == sha256_of(source)
    assert set(got.state) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(got.state[name], value, err_msg=name)
    again = convert(done.target, tmp_path / "again.safetensors")  # the card is in the file
    assert again.card == card


def test_convert_refuses_before_it_reads(tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    for target, says in [
        (tmp_path / "x.pth", "safetensors"),
        (tmp_path / "there.safetensors", "there already"),
        (tmp_path / "no" / "x.safetensors", "no folder"),
    ]:
        with pytest.raises(FileError, match=says):
            convert(tmp_path / "nowhere.pth", target, tiny_card())
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_convert_of_what_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source = save_pth(tmp_path / "in.pth", tiny(keypoints=9))
    with pytest.raises(ModelError, match="expected"):
        convert(source, tmp_path / "out.safetensors", tiny_card())
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]


def test_convert_may_overwrite(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source = save_pth(tmp_path / "in.pth", tiny())
    (tmp_path / "out.safetensors").write_bytes(b"old")
    convert(source, tmp_path / "out.safetensors", tiny_card(), overwrite=True)
    assert load_weights(tmp_path / "out.safetensors", tiny_card()).keys() == tiny().keys()


# Loading into torch


def test_load_into_fills_a_module_strictly() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    rng = np.random.default_rng(0)
    state = {n: rng.random(tuple(t.shape)) for n, t in net.state_dict().items() if t.is_floating_point()}
    load_into(net, state)
    for name, value in state.items():
        np.testing.assert_allclose(net.state_dict()[name].numpy(), value.astype(np.float32))
    assert net.state_dict()["0.weight"].dtype == torch.float32
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ModelError, match=r"my file does not fit Sequential: 1 missing: 0\.bias"):
        load_into(net, {n: v for n, v in state.items() if n != "0.bias"}, where="my file")


def test_load_into_a_module_without_memory() -> None:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        net = torch.nn.Linear(3, 2)
    load_into(net, {"weight": np.ones((2, 3), np.float16), "bias": np.zeros(2, np.float32)})
    assert net(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
    assert net.weight.dtype == torch.float32 and net.weight.requires_grad


def test_a_missing_error_branch_says_nan() -> None:
    torch = pytest.importorskip("torch")
    from bodyloop.nn.topdown import build_pose

    net = build_pose("vit-s", 17, "probability").eval()
    state = {n: t.numpy() for n, t in net.state_dict().items() if not n.startswith("head.error_layers.")}
    load_into(net, state)
    with torch.inference_mode():
        out = net(torch.zeros(1, 3, 256, 192), ["presence", "error"])
    assert torch.isnan(out["error"]).all() and torch.isfinite(out["presence"]).all()


@pytest.mark.parametrize("seed", range(20))
def test_fuzzed_weight_files(tmp_path: Path, seed: int) -> None:
    """Renamed, lost, reshaped, retyped and poisoned tensors: one error that names one of them."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    state = tiny()
    names = [n for n in state if not n.endswith(keymaps.COUNTER)]
    hit = names[rng.integers(len(names))]
    kind = ["rename", "lose", "reshape", "retype", "nan", "transpose"][seed % 6]
    value = state.pop(hit)
    if kind == "rename":
        state[hit + "x"] = value
    elif kind == "reshape":
        state[hit] = value.reshape(-1, 1, 1, 1, 1)
    elif kind == "retype":
        state[hit] = value.astype(np.int32)
    elif kind == "nan":
        state[hit] = np.where(rng.random(value.shape) < 2, np.nan, value).astype(np.float32)
    elif kind == "transpose":
        state[hit] = value[None]
    torch.save({n: torch.from_numpy(np.array(v)) for n, v in state.items()}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"x\.pth") as e:
        load_weights(tmp_path / "x.pth", tiny_card())
    assert hit in str(e.value)
