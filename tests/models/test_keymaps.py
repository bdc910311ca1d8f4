"""Names of three projects for one network."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.errors import ModelError
from bodyloop.models import keymaps
from bodyloop.models.keymaps import canonical, dialect, fit_pos_embed, layout, recognise, strip_prefix
from tests.models.synthetic import TINY, as_huggingface, as_vitpose, tiny, with_class_token, with_experts


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keymaps._VITS, *TINY)


@pytest.mark.parametrize("head", ["plain", "simple"])
@pytest.mark.parametrize(("translate", "name"), [(as_vitpose, "vitpose"), (as_huggingface, "huggingface")])
def test_other_projects_names_become_ours(translate, name, head: str) -> None:  # type: ignore[no-untyped-def]
    ours = tiny(head)
    theirs = translate(ours)
    assert dialect(theirs) == name and dialect(ours) == "bodyloop"
    back = canonical(theirs)
    assert back.dialect == name and not back.experts
    assert set(back.state) == set(ours)
    for key, value in ours.items():
        np.testing.assert_allclose(back.state[key], value, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("chosen", [0, 2])
@pytest.mark.parametrize("translate", [as_vitpose, as_huggingface])
def test_one_expert_is_folded_in(translate, chosen: int) -> None:  # type: ignore[no-untyped-def]
    ours = tiny()
    theirs = with_experts(translate(ours), chosen=chosen)
    assert len(theirs) > len(translate(ours))
    back = canonical(theirs, expert=chosen)
    assert back.experts and set(back.state) == set(ours)
    key = "backbone.layers.1.ffn.layers.1.weight"
    np.testing.assert_array_equal(back.state[key], ours[key])
    assert not np.array_equal(canonical(theirs, expert=1).state[key], ours[key])


def test_folding_is_what_the_mixture_computes() -> None:
    """Shared outputs and those of one expert, side by side, by hand on one layer."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal(8)
    shared, expert = rng.standard_normal((3, 8)), rng.standard_normal((1, 8))
    state = {
        "backbone.blocks.0.mlp.fc2.weight": shared,
        "backbone.blocks.0.mlp.experts.0.weight": expert,
    }
    folded = canonical(state).state["backbone.layers.0.ffn.layers.1.weight"]
    np.testing.assert_allclose(folded @ hidden, [*(shared @ hidden), *(expert @ hidden)])


def test_an_expert_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"experts\.7\.weight"):
        canonical(with_experts(as_huggingface(tiny())), expert=7)


def test_missing_key_beside_query() -> None:
    state = as_huggingface(tiny())
    del state["backbone.encoder.layer.1.attention.attention.key.bias"]
    with pytest.raises(ModelError, match=r"layers\.1\.attn\.key\.bias"):
        canonical(state)


def test_parts_that_do_not_fit() -> None:
    state = as_huggingface(tiny())
    state["backbone.encoder.layer.0.attention.attention.value.weight"] = np.zeros((3, 5), np.float32)
    with pytest.raises(ModelError, match="do not fit together"):
        canonical(state)


def test_two_names_for_one_tensor() -> None:
    state = tiny() | {"head.final_layer.2.weight": np.zeros(1, np.float32)}
    with pytest.raises(ModelError, match="final_layer"):
        canonical(state)


def test_numbered_final_layer_of_old_heads() -> None:
    state = tiny()
    state["head.final_layer.0.bias"] = state.pop("head.final_layer.bias")
    assert "head.final_layer.bias" in canonical(state).state


def test_heads_of_other_data_sets_are_left_out() -> None:
    state = as_vitpose(tiny()) | {"associate_keypoint_heads.0.final_layer.bias": np.zeros(3, np.float32)}
    assert set(canonical(state).state) == set(tiny())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_prefixes(prefix: str) -> None:
    state = tiny()
    assert set(strip_prefix({prefix + n: v for n, v in state.items()})) == set(state)
    mixed = {"module.a": state["backbone.ln1.bias"], "b": state["backbone.ln1.bias"]}
    assert set(strip_prefix(mixed)) == {"module.a", "b"}
    assert strip_prefix({}) == {}


@pytest.mark.parametrize("head", ["plain", "probability", "double", "simple"])
def test_recognise_reads_back_the_layout(head: str) -> None:
    found = recognise(tiny(head, keypoints=7))
    assert found == keymaps.Signature("vit-t", 7, head)
    assert f"7 keypoints, {head} head" in str(found)


def test_recognise_knows_its_limits() -> None:
    assert recognise({}) is None
    assert recognise(tiny() | {"backbone.pos_embed": np.zeros((1, 192, 33), np.float32)}) is None


@pytest.mark.parametrize(("architecture", "head"), [("vit-x", "plain"), ("vit-s", "round")])
def test_unknown_layouts(architecture: str, head: str) -> None:
    with pytest.raises(ModelError, match="no key list"):
        layout(architecture, 17, head)


def test_class_token_is_dropped_or_added() -> None:
    pos = np.random.default_rng(0).standard_normal((1, 192, 4)).astype(np.float32)
    legacy = np.concatenate([np.full((1, 1, 4), 9, np.float32), pos], axis=1)
    assert np.array_equal(canonical({"backbone.pos_embed": legacy}).state["backbone.pos_embed"], pos)
    theirs = {"backbone.pos_embed": with_class_token(pos), "keypoint_head.x": pos}
    np.testing.assert_allclose(canonical(theirs).state["backbone.pos_embed"], pos, atol=1e-6)
    for length in (192, 196, 256):  # nothing to drop
        whole = np.zeros((1, length, 4), np.float32)
        assert canonical({"backbone.pos_embed": whole}).state["backbone.pos_embed"].shape == whole.shape
    square = np.zeros((1, 197, 4), np.float32)
    assert canonical({"backbone.pos_embed": square}).state["backbone.pos_embed"].shape == (1, 196, 4)


def test_resizing_is_torchs_bicubic() -> None:
    # torch computes its weights in float32, we in float64: 3e-6 on these values; 1e-5 is what parity asks.
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for side, grid in [(14, (16, 12)), (16, (16, 12)), (24, (16, 12)), (7, (20, 15)), (1, (2, 3))]:
        pos = rng.standard_normal((1, side * side, 3)).astype(np.float32)
        source = torch.from_numpy(pos).reshape(1, side, side, 3).permute(0, 3, 1, 2)
        want = torch.nn.functional.interpolate(source, grid, mode="bicubic", align_corners=False)
        got = fit_pos_embed(pos, grid)
        assert got.dtype == np.float32
        np.testing.assert_allclose(
            got.reshape(*grid, 3),
            want[0].permute(1, 2, 0).numpy(),
            rtol=0,
            atol=1e-5,
            err_msg=str((side, grid)),
        )


def test_positions_that_have_no_shape() -> None:
    with pytest.raises(ModelError, match="150 positions"):
        fit_pos_embed(np.zeros((1, 150, 4), np.float32))
    same = np.zeros((1, 192, 4), np.float32)
    assert fit_pos_embed(same) is same
