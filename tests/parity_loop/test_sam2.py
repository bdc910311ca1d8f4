"""SAM 2.1 and SAM-pose2seg against the reference: key lists, names, whole answers from official files."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bodyloop.api import clear_models, load_segmenter  # noqa: E402
from bodyloop.images import Image  # noqa: E402
from bodyloop.masks import Masks  # noqa: E402
from bodyloop.models.build import shapes_of  # noqa: E402
from bodyloop.models.keymaps_sam import canonical_sam, recognise_sam, rename  # noqa: E402
from bodyloop.models.registry import find_card  # noqa: E402
from bodyloop.nn.sam2 import SIZES, choose, sam2, stability  # noqa: E402
from bodyloop.roles import Prompt  # noqa: E402
from bodyloop.segment.logits import enlarged, tidy  # noqa: E402
from bodyloop.segment.sam2 import SamImage, SamSegmenter, network_input  # noqa: E402
from tests.parity_loop.inputs import picture, weights  # noqa: E402
from tests.parity_loop.stored import arrays, close, load_json, same, seen  # noqa: E402

CARDS = {**{n: n for n in SIZES}, "sam-pose2seg-base-plus": "sam-pose2seg-b+"}  # by key file
NAMES = "sam2/key_map_transformers.json"
MEMORY = 160  # entries that pictures do not need


def blank(keys: dict[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors of the right shapes that take no memory."""
    return {n: np.broadcast_to(np.float32(0), shape) for n, (_, shape) in keys.items()}


@pytest.mark.parametrize("name", CARDS)
def test_keys(name: str) -> None:
    file = f"keys/{name}.json"
    stored = load_json(file)
    state = blank(stored["keys"])
    ours = canonical_sam(state)
    card = find_card(CARDS[name])
    assert {n: a.shape for n, a in ours.items()} == shapes_of(card)
    assert {kind for kind, _ in stored["keys"].values()} == {"float32"}
    assert sum(rename(n) is None for n in state) == MEMORY
    assert recognise_sam(ours) == card.architecture
    assert card.preprocess.size == (stored["image_size"],) * 2
    numbers = {n: a.size for n, a in state.items() if not n.endswith("gaussian_matrix")}
    assert sum(numbers.values()) == stored["parameters"]
    assert sum(s for n, s in numbers.items() if rename(n)) == card.parameters
    seen(file)


def test_names() -> None:
    stored = load_json(NAMES)
    for official, ours in stored["map_base_plus"].items():
        told = re.sub(r"point_embed\.weight\[(\d)\]$", r"point_embeddings.\1.weight", ours or "")
        assert rename(official) == (told or None), official
    rules = [(re.compile(a), b) for a, b in stored["rules"]]
    for name in CARDS:
        for official in load_json(f"keys/{name}.json")["keys"]:
            assert told_by(rules, official) == rename(official), official
    seen(NAMES, "map_base_plus")
    seen(NAMES, "rules")


def told_by(rules: list[tuple[re.Pattern[str], str | None]], name: str) -> str | None:
    """A name by the rules of the file: the first that matches, then the last replacement."""
    for pattern, new in rules:
        if pattern.search(name):
            if new is None:
                return None
            name = pattern.sub(new, name)
            break
    if name.startswith("mask_decoder.transformer."):
        name = name.replace(".out_proj.", ".o_proj.")
    return re.sub(r"point_embed\.weight\[(\d)\]$", r"point_embeddings.\1.weight", name)


@pytest.mark.parametrize("name", SIZES)
def test_settings_of_the_backbone(name: str) -> None:
    stored = load_json(NAMES)["config"][name]
    with torch.device("meta"):
        config = sam2(SIZES[name]).config.vision_config
    assert config.backbone_channel_list == stored["backbone_channel_list"]
    backbone = config.backbone_config
    assert {k: getattr(backbone, k) for k in stored["backbone_config"]} == stored["backbone_config"]
    seen(NAMES, "config", name)


# ---- answers -------------------------------------------------------------------------------------------------

A, B = [20, 15, 80, 110], [85, 20, 140, 90]


def prompt(points: list[list[float]], labels: list[int], box: list[float] | None = None) -> Prompt:
    return Prompt(np.array(points, np.float32), np.array(labels), None if box is None else np.array(box))


CASES = {  # prompts, three answers instead of one
    "point_multi": ([prompt([[50, 60]], [1])], True),
    "point_single": ([prompt([[50, 60]], [1])], False),
    "box_single": ([prompt([], [], A)], False),
    "points_mixed": ([prompt([[50, 60], [45.5, 40.25], [55, 80], [110, 50]], [1, 1, 1, 0])], False),
    "points_box": ([prompt([[50, 60], [52, 75]], [1, 1], A)], False),
    "batch_points_boxes": (
        [prompt([[50, 60], [52, 75]], [1, 1], A), prompt([[105, 50], [110, 40]], [1, 0], B)],
        False,
    ),
    "batch_points_multi": (
        [prompt([[50, 60], [52, 75], [40, 30]], [1] * 3), prompt([[105, 50], [110, 40], [100, 70]], [1] * 3)],
        True,
    ),
    "empty_points": ([prompt([], [])], False),
    "mask_input": ([prompt([[50, 60], [110, 50]], [1, 0])], False),
}
WITH_ANSWERS = ["sam2.1-tiny", "sam-pose2seg-base-plus"]


@pytest.fixture(scope="module", params=WITH_ANSWERS)
def answering(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(name, segmenter from an official file, the encoded picture)."""
    name = request.param
    file = tmp_path_factory.mktemp("official") / "weights.pt"
    torch.save({"model": {n: torch.from_numpy(a) for n, a in weights(name).items()}}, file)
    segmenter = load_segmenter(file, card=CARDS[name])
    file.unlink()
    clear_models()  # the segmenter keeps its own
    image = Image.from_array(picture(1, 120, 160), order="bgr")
    assert isinstance(segmenter, SamSegmenter)
    yield name, segmenter, image, segmenter.encode([image])[0]


@pytest.mark.slow
def test_features(answering: tuple[str, SamSegmenter, Image, SamImage]) -> None:
    name, segmenter, image, encoded = answering
    stored = arrays(f"sam2/{name}.npz")
    close(network_input(image, segmenter.preprocess)[:, ::32, ::32], stored["input_sub"], 1e-5)
    found = {n: np.asarray(a)[0] for n, a in encoded.features.items()}
    assert found["image_embedding"].shape == (256, 64, 64)
    close(found["image_embedding"][::8, ::4, ::4], stored["image_embed_sub"], 1e-4)
    close(found["high_0"][::4, ::16, ::16], stored["high_res_s0_sub"], 1e-4)
    close(found["high_1"][::4, ::8, ::8], stored["high_res_s1_sub"], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_answers(answering: tuple[str, SamSegmenter, Image, SamImage], case: str) -> None:
    name, segmenter, _, encoded = answering
    stored, told = arrays(f"sam2/{name}.npz"), load_json(f"sam2/{name}.json")[case]
    prompts, multimask = CASES[case]
    previous = None
    if case == "mask_input":
        previous = [segmenter.logits(encoded, CASES["point_multi"][0], multimask=True).maps[0, 0]]
    found = segmenter.logits(encoded, prompts, previous=previous, multimask=multimask)
    low, iou = stored[f"{case}/low_res_sub"], stored[f"{case}/iou"]
    close(found.maps[..., ::4, ::4].reshape(low.shape), low, 1e-3)
    close(found.scores.reshape(iou.shape), iou, 1e-5)
    lead = iou.shape
    assert [*lead, 256, 256] == told["low_shape"] and [*lead, 120, 160] == told["masks_shape"]
    assert np.allclose(np.ravel(told["iou"]), found.scores.ravel(), rtol=0, atol=1e-5)
    if previous is not None:  # `segment` takes masks, not maps, for a first guess
        masks = Masks.from_bitmaps([enlarged(m, (160, 120)) > 0 for m in found.maps[:, 0]])
    elif multimask:
        masks = Masks.concat([r.masks for r in segmenter.candidates(encoded, prompts)])
    else:
        result = segmenter.segment(encoded, prompts)
        masks = result.masks
        assert np.array_equal(result.scores, found.scores[:, 0])
    expected = Masks.from_rle(told["masks"])
    assert len(masks) == len(expected)
    assert (np.diag(masks.iou(expected)) >= 0.999).all()
    seen(f"sam2/{name}.json", case)


def test_which_answer_is_stable() -> None:
    stored = arrays("glue/sam_post.npz")
    logits, iou = (torch.from_numpy(stored[n].copy()) for n in ("stab_logits", "stab_iou"))
    close(stability(logits[:, :1]), stored["stab_scores"], 1e-6)
    mask, score = choose(logits, iou)
    same(mask[:, None], stored["stab_masks"])
    same(score[:, None], stored["stab_iou_out"])


def test_holes_and_specks() -> None:
    stored = arrays("glue/sam_post.npz")
    low = stored["low"][0, 0]
    close(enlarged(low, (90, 50)), stored["post_plain"][0, 0], 1e-4)
    close(enlarged(tidy(low, 10, 50), (90, 50)), stored["post"][0, 0], 1e-4)
