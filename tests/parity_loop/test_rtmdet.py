"""RTMDet and RTMDet-Ins against the reference: key lists, the network alone, whole pictures; all in float64."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from bodyloop.detect.instances import dynamic_masks, masks_in_photo, priors  # noqa: E402
from bodyloop.detect.letterbox import Letterbox  # noqa: E402
from bodyloop.detect.rtmdet import DetectorParity, select  # noqa: E402
from bodyloop.masks import Masks  # noqa: E402
from bodyloop.models.cards import IMAGENET_MEAN, IMAGENET_STD, Detection  # noqa: E402
from bodyloop.models.checkpoints import load_into  # noqa: E402
from bodyloop.nn.rtmdet import DetectorFunction, RTMDet, rtmdet  # noqa: E402
from bodyloop.nn.rtmdet_ins import rtmdet_ins  # noqa: E402
from tests.parity_loop.inputs import picture, weights  # noqa: E402
from tests.parity_loop.stored import arrays, close, load_json, same, seen  # noqa: E402

KEYS = [
    *(f"rtmdet-ins-{s}" for s in ("tiny", "s", "m", "l", "x", "l-person")),
    *(f"rtmdet-{s}" for s in ("tiny", "m", "l")),
]
COMPARED = ["rtmdet-ins-tiny", "rtmdet-ins-l-person", "rtmdet-m"]
SLOW = {"rtmdet-ins-l-person", "rtmdet-m"}
NETWORKS = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in COMPARED]
PICTURES = [
    pytest.param(n, t, marks=pytest.mark.slow)
    for n in COMPARED
    for t in load_json(f"rtmdet/{n}.json")
    if t != "test_cfg"
]
SIZE = (640, 640)
RELATIVE = 1e-5  # of an array's largest number; they are stored in float32


def build(name: str, classes: int) -> RTMDet:
    size = name.removesuffix("-person").rsplit("-", 1)[1]
    return rtmdet_ins(size, classes) if "-ins-" in name else rtmdet(size, classes)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n[-2:] == "-x" else []) for n in KEYS]
)
def test_key_lists(name: str) -> None:
    """Same names, same shapes, the same tensors shared, and a strict load."""
    file = f"keys/{name}.json"
    listed = load_json(file)
    with torch.device("meta"):
        net = build(name, listed["num_classes"])
    own = net.state_dict(keep_vars=True)
    assert {n: list(t.shape) for n, t in own.items()} == {n: s for n, (_, s) in listed["keys"].items()}
    for alias, original in listed["aliases"].items():
        assert own[alias] is own[original]
    assert len({id(t) for t in own.values()}) == len(own) - len(listed["aliases"])
    assert sum(p.numel() for p in net.parameters()) == listed["parameters"]
    load_into(net, {n: np.zeros(s, np.dtype(d)) for n, (d, s) in listed["keys"].items()}, where=name)
    assert not any(t.is_meta for t in net.state_dict().values())
    seen(file)


@cache
def function(name: str) -> DetectorFunction:
    """The network with the stored weights, in float64."""
    net = build(name, load_json(f"keys/{name}.json")["num_classes"])
    load_into(net, weights(name, f"rtmdet/bn-{name}.npz"), where=name)
    made = DetectorFunction(net, SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=True).double().eval()
    for buffer, exact in ((made.mean, IMAGENET_MEAN), (made.std, IMAGENET_STD)):
        buffer.copy_(torch.tensor(exact, dtype=torch.float64).reshape(buffer.shape))  # was rounded to float32
    return made


def near(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    close(actual, expected, RELATIVE * float(np.abs(expected).max()))


def maps_of(net: RTMDet, x: Tensor) -> dict[str, Tensor]:
    """Stem, backbone and neck outputs by the names of the stored arrays."""
    kept: dict[str, Tensor] = {}
    stem = net.backbone.get_submodule("stem")
    hook = stem.register_forward_hook(lambda module, args, out: kept.update(stem=out))
    maps = net.backbone(x)
    hook.remove()
    kept |= {f"c{i + 3}": m for i, m in enumerate(maps)}
    return kept | {f"p{i + 3}": m for i, m in enumerate(net.neck(maps))}


def by_level(x: Tensor, sides: list[tuple[int, int]]) -> list[Tensor]:
    """(1, P, c) as (c, h, w) of each level."""
    parts = x[0].split([h * w for h, w in sides])
    return [p.reshape(h, w, -1).permute(2, 0, 1) for p, (h, w) in zip(parts, sides, strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_alone(name: str) -> None:
    stored = {k.removeprefix("direct/"): a for k, a in arrays(f"rtmdet/{name}.npz").items() if "direct" in k}
    whole = function(name)
    pixels = torch.from_numpy(picture(0, 128, 160)[None]).flip(-1).permute(0, 3, 1, 2).double()
    x = ((pixels - whole.mean) / whole.std).flip(1)
    with torch.inference_mode():
        found = {k: m[0, ::4] for k, m in maps_of(whole.network, x).items()}
        out = dict(zip(whole.network.outputs, whole.network(x), strict=True))
    found["stem"] = found["stem"][:, ::4, ::4]
    sides = [(16, 20), (8, 10), (4, 5)]
    for i, m in enumerate(by_level(out["logits"], sides)):
        found[f"cls{i}"] = m if len(m) == 1 else m[::4]
    for i, m in enumerate(by_level(out["distances"], sides)):
        found[f"reg{i}"] = m
    if "kernels" in out:
        for i, m in enumerate(by_level(out["kernels"], sides)):
            found[f"kernel{i}"] = m[::4, ::2, ::2] if i < 2 else m[::4]
        found["mask_feat"] = out["prototypes"][0]
    assert set(found) == set(stored)
    for k, expected in stored.items():
        near(found[k].numpy(), expected)


@pytest.mark.parametrize(("name", "tag"), PICTURES)
def test_whole_pictures(name: str, tag: str) -> None:
    file, numbers = f"rtmdet/{name}.npz", load_json(f"rtmdet/{name}.json")
    stored = {k.removeprefix(f"{tag}/"): a for k, a in arrays(file).items() if k.startswith(f"{tag}/")}
    h, w = (int(v) for v in tag.split("_")[1].split("x"))
    place = Letterbox.fit((w, h), SIZE)
    drawn = place.draw(picture(int(tag[3]), h, w)[..., ::-1], 114, bilinear=True)
    same(drawn[..., ::-1].transpose(2, 0, 1)[:, ::16, ::16], stored["resized_sub"])
    meta = numbers[tag]["meta"]
    assert (list(place.photo), list(place.canvas)) == (meta["ori_shape"][::-1], meta["img_shape"][::-1])
    assert list(place.factors) == meta["scale_factor"]

    whole = function(name)
    with torch.inference_mode():
        out = {k: v.numpy() for k, v in whole(torch.from_numpy(drawn[None]), whole.outputs).items()}
    cfg = numbers["test_cfg"]
    detection = Detection(
        score_threshold=cfg["score_thr"], nms_iou=cfg["nms"]["iou_threshold"], nms_pre=cfg["nms_pre"],
        max_per_image=cfg["max_per_img"],
    )  # fmt: skip
    parity = DetectorParity(bilinear=True, clip_to_canvas=True, swapped_factors=True, all_classes=True)
    found = select(out["boxes"][0], out["scores"][0], place, detection, parity, out["logits"][0])
    assert len(found.scores) == numbers[tag]["n"]
    same(found.labels, stored["labels"])
    near(found.scores, stored["scores"])
    near(found.boxes, stored["boxes"])
    if "kernels" in out:
        compare_masks(found.priors, out, stored, numbers[tag], place)
    seen(f"rtmdet/{name}.json", tag)
    seen(f"rtmdet/{name}.json", "test_cfg")


def compare_masks(
    chosen: npt.NDArray[np.int64],
    out: dict[str, npt.NDArray[Any]],
    stored: dict[str, npt.NDArray[Any]],
    numbers: dict[str, Any],
    place: Letterbox,
) -> None:
    points, strides = (x[chosen].astype(np.float64) for x in priors(SIZE))
    same(np.column_stack([points, strides, strides]), stored["priors"])
    kernels = out["kernels"][0, chosen]
    near(kernels[:8], stored["kernels"])
    logits = dynamic_masks(kernels, out["prototypes"][0], points, strides)
    near(logits[:8, ::2, ::2], stored["mask_logits_sub"])
    masks = masks_in_photo(logits, place, swapped=True)
    areas = np.array(numbers["areas"])
    assert (np.abs(masks.areas - areas) <= 1e-3 * areas).all()
    expected = numbers["masks"]
    h, w = expected[0]["size"]
    assert not masks.bitmaps()[:, h:].any() and not masks.bitmaps()[:, :, w:].any()
    cut = Masks.from_bitmaps(masks[:20].bitmaps()[:, :h, :w])
    theirs = Masks.from_rle(expected)
    empty = ~cut.present & ~theirs.present
    assert (np.diag(cut.iou(theirs))[~empty] >= 0.999).all()
