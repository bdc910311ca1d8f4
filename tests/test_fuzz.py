"""Malformed input of every kind, twenty seeds each: one of the package's own errors from the library; from the
command line exit code 1 or 2 and one line that names the file and what is wrong in it, never a traceback. Code
in a file is never run: a pickle that tries leaves no marker.

Each kind makes, from a random generator, a `Trial`: files, a call of the library, a call of the command. Seeds
run in this process; the first seed of each kind runs in a process of its own, too.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bodyloop import api
from bodyloop.cli import app
from bodyloop.errors import BodyloopError, FileError
from bodyloop.images import Image, read
from bodyloop.models.cards import METADATA_KEY, Card, load_card
from bodyloop.models.checkpoints import convert
from bodyloop.models.registry import find_card
from bodyloop.people import People, Source
from bodyloop.storage import people_from_json, people_to_json
from tests.cli.conftest import run
from tests.cli.standins import DETECTOR, POSE, picture, write_detector, write_pose

SEEDS = 20
SIZE = (120, 160)
BOX = [10.0, 20.0, 60.0, 150.0]
Rng = np.random.Generator


@dataclass(frozen=True)
class Trial:
    """One malformed input.

    Attributes:
        library: must raise one of the package's own errors.
        arguments: of the command, which must end with 1 or 2.
        file: name of the malformed file, which the message must hold.
        says: of these words the message must hold one.
    """

    library: Callable[[], object]
    arguments: list[object]
    file: str
    says: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a trial is made: its folder, sound models and a sound photo, and the file that nobody may write."""

    folder: Path
    pose: Path
    detector: Path
    photo: Path
    marker: Path


Make = Callable[[Place, Rng], Trial]
KINDS: dict[str, Make] = {}


def kind(make: Make) -> Make:
    KINDS[make.__name__.replace("_", "-")] = make
    return make


def predict(place: Place, *more: object, model: object = None, photo: object = None) -> list[object]:
    return [
        "predict", photo or place.photo, "--model", model or place.pose, "--detector", place.detector,
        "--out", place.folder / "out", *more,
    ]  # fmt: skip


def choose(rng: Rng, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


# ---- pictures ----------------------------------------------------------------------------------------------


def encoded(rng: Rng, form: str) -> bytes:
    import PIL.Image

    out = io.BytesIO()
    pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def bad_picture(place: Place, name: str, data: bytes, *says: str) -> Trial:
    path = place.folder / name
    path.write_bytes(data)
    words = says or ("broken", "truncated", "not a picture", "header")
    return Trial(lambda: read(path), predict(place, photo=path), name, words)


@kind
def picture_truncated(place: Place, rng: Rng) -> Trial:
    form = choose(rng, ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
    data = encoded(rng, form)
    cut = int(rng.integers(1, len(data) * 3 // 4))
    return bad_picture(place, f"cut.{form.lower()}".replace("jpeg", "jpg"), data[:cut])


@kind
def picture_of_no_bytes(place: Place, rng: Rng) -> Trial:
    return bad_picture(place, choose(rng, ["e.jpg", "e.png", "e.tif"]), b"", "empty")


def png_header(w: int, h: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@kind
def picture_that_is_a_bomb(place: Place, rng: Rng) -> Trial:
    w, h = (int(v) for v in rng.integers(20_000, 2**31 - 1, 2))
    return bad_picture(place, "bomb.png", png_header(w, h), "too many", "pixels", "header")


@kind
def picture_of_zero_size(place: Place, rng: Rng) -> Trial:
    w, h = choose(rng, [(0, 5), (5, 0), (0, 0)])
    return bad_picture(place, "zero.png", png_header(w, h), "pixel", "broken", "header", "not a picture")


@kind
def picture_of_noise(place: Place, rng: Rng) -> Trial:
    start = choose(rng, [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0", b"RIFF"])
    return bad_picture(place, "noise.jpg", start + rng.bytes(int(rng.integers(1, 400))))


@kind
def picture_of_another_type(place: Place, rng: Rng) -> Trial:
    """Arrays that are no pictures; for the command the same in a file that is none."""
    shape = choose(rng, [(8, 8, 3), (3, 8, 8), (8, 8, 4), (2, 8, 8, 3), (8,)])
    dtype = choose(rng, [np.float32, np.int64, np.uint16, np.complex64, bool])
    array = np.zeros(shape, dtype)
    path = place.folder / "array.png"
    with path.open("wb") as f:
        np.save(f, array)
    words = ("not a picture",)
    return Trial(lambda: Image.from_array(array), predict(place, photo=path), "array.png", words)


# ---- boxes -------------------------------------------------------------------------------------------------


@cache
def pose_of(path: Path) -> Any:
    return api.load_pose(path, detector=None)


def bad_boxes(place: Place, rng: Rng, box: object, *says: str) -> Trial:
    """A bad box beside a good one, in one of the forms of a boxes file."""
    boxes = [BOX, box] if rng.random() < 0.5 else [box, BOX]
    name = place.photo.name
    content: Any = {name: boxes}
    if rng.random() < 0.5:
        content = [{"file_name": name, "boxes": boxes}]
    path = place.folder / "boxes.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Trial(
        lambda: pose_of(place.pose).predict(place.photo, boxes=boxes),
        predict(place, "--boxes", path), "boxes.json", (f"boxes[{boxes.index(box)}]", *says),
    )  # fmt: skip


@kind
def boxes_with_nan(place: Place, rng: Rng) -> Trial:
    box = list(BOX)
    box[int(rng.integers(4))] = choose(rng, [float("nan"), float("inf"), float("-inf")])
    return bad_boxes(place, rng, box)


@kind
def boxes_too_large(place: Place, rng: Rng) -> Trial:
    return bad_boxes(place, rng, [0, 0, 10.0 ** float(rng.uniform(6.1, 300)), choose(rng, [10**7, 10**400])])


@kind
def boxes_without_area(place: Place, rng: Rng) -> Trial:
    x, y = (float(v) for v in rng.uniform(0, 100, 2))
    w, h = choose(rng, [(0, 10), (10, 0), (0, 0), (-5, 10), (10, -5), (-1, -1)])
    return bad_boxes(place, rng, [x, y, x + w, y + h])


@kind
def boxes_of_another_shape(place: Place, rng: Rng) -> Trial:
    odd = [[1, 2, 3], [1, 2, 3, 4, 5], "left", None, [], {}, [1, 2, "x", 4], [[1, 2], [3, 4]], [None] * 4, 7]
    return bad_boxes(place, rng, choose(rng, odd))


@kind
def boxes_file_truncated(place: Place, rng: Rng) -> Trial:
    text = json.dumps({place.photo.name: [BOX] * 5})
    path = place.folder / "boxes.json"
    path.write_text(text[: int(rng.integers(0, len(text) - 1))], encoding="utf-8")
    return Trial(lambda: People.load(path), predict(place, "--boxes", path), "boxes.json", ("JSON",))


@kind
def boxes_file_of_another_kind(place: Place, rng: Rng) -> Trial:
    odd = [
        3,
        "text",
        [1, 2],
        [[]],
        {"schema": "other"},
        {"annotations": 3},
        {"annotations": []},
        None,
        [None],
    ]
    path = place.folder / "boxes.json"
    path.write_text(json.dumps(choose(rng, odd)), encoding="utf-8")
    words = ("expected", "does not name")
    return Trial(lambda: People.load(path), predict(place, "--boxes", path), "boxes.json", words)


# ---- masks -------------------------------------------------------------------------------------------------


def bad_masks(place: Place, mask: object, *says: str) -> Trial:
    path = place.folder / "masks.json"
    path.write_text(json.dumps({place.photo.name: {"boxes": [BOX], "masks": [mask]}}), encoding="utf-8")
    return Trial(
        lambda: pose_of(place.pose).predict(place.photo, boxes=[BOX], masks=[mask]),
        predict(place, "--masks", path), "masks.json", ("masks[0]", *says),
    )  # fmt: skip


@kind
def masks_with_broken_runs(place: Place, rng: Rng) -> Trial:
    text = "".join(chr(int(c)) for c in rng.integers(33, 127, int(rng.integers(1, 30))))
    runs = [int(v) for v in rng.integers(-50, 50_000, 5)]
    return bad_masks(
        place, {"size": [160, 120], "counts": choose(rng, [text, runs, None, 3, "", [1.5, "x"]])}
    )


@kind
def masks_of_another_size(place: Place, rng: Rng) -> Trial:
    size = choose(
        rng, [[120, 160], [1, 1], [10**9, 10**9], [-160, 120], [0, 0], [160], "big", [160.5, 120], None]
    )
    return bad_masks(place, {"size": size, "counts": "05"})


@kind
def masks_with_broken_polygons(place: Place, rng: Rng) -> Trial:
    odd = [
        [[1, 2]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [["a"] * 6],
        [[[1]]],
    ]
    odd += [
        [[1, 2, 3, 4, 5, float("inf")]],
        [None],
        [[None] * 6],
        "x",
        5,
        {"a": 1},
        [[0, 0, 1e300, 0, 1e300, 1e300]],
    ]
    return bad_masks(place, choose(rng, odd))


@kind
def masks_that_are_too_many(place: Place, rng: Rng) -> Trial:
    masks = [[[10, 10, 50, 10, 50, 90]]] * int(rng.integers(2, 9))
    boxes, path = place.folder / "boxes.json", place.folder / "masks.json"
    boxes.write_text(json.dumps({place.photo.name: [BOX]}), encoding="utf-8")
    path.write_text(json.dumps({place.photo.name: masks}), encoding="utf-8")
    return Trial(
        lambda: pose_of(place.pose).predict(place.photo, boxes=[BOX], masks=masks),
        predict(place, "--boxes", boxes, "--masks", path), "masks.json", (f"{len(masks)} for the 1",),
    )  # fmt: skip


# ---- people files ------------------------------------------------------------------------------------------


def document(place: Place) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    points, shares = rng.uniform(0, 100, (2, 17, 2)), rng.uniform(0, 1, (2, 17))
    return people_to_json(
        People(
            SIZE, Source(place.photo.name), POSE.skeleton, np.float32([BOX, BOX]), np.float32([0.5, 0.6]),
            keypoints=np.float32(points), presence=np.float32(shares),
        )
    )  # fmt: skip


@kind
def people_json_truncated(place: Place, rng: Rng) -> Trial:
    text = json.dumps(document(place))
    path = place.folder / "people.json"
    path.write_text(text[: int(rng.integers(0, len(text) - 1))], encoding="utf-8")
    return Trial(lambda: People.load(path), predict(place, "--boxes", path), "people.json", ("JSON",))


@kind
def people_json_with_wrong_values(place: Place, rng: Rng) -> Trial:
    d = document(place)
    person, image = d["people"][1], d["image"]
    what, change, says = choose(
        rng,
        [
            (person, {"box": [1, 2, 3]}, "box"),
            (person, {"box": [9, 9, 1, 1]}, "box"),
            (person, {"box": "left"}, "box"),
            (person, {"box": [1, 2, 1e300, 4]}, "box"),
            (person, {"score": [1, 2]}, "score"),
            (person, {"score": {}}, "score"),
            (person, {"keypoints": [[1, 2]] * 3}, "keypoints"),
            (person, {"keypoints": 7}, "keypoints"),
            (person, {"presence": ["x"] * 17}, "presence"),
            (person, {"mask": {"size": [1, 1], "counts": "05"}}, "mask"),
            (person, {"track_id": "seven"}, "track"),
            (person, {"provenance": 3}, "provenance"),
            (person, {"nose": 1}, "nose"),
            (image, {"width": -1}, "size"),
            (image, {"width": "wide"}, "size"),
            (image, {"height": 10**30}, "size"),
            (image, {"path": 3}, "path"),
            (d, {"skeleton": "giraffe"}, "skeleton"),
            (d, {"skeleton": {"name": "x", "keypoints": []}}, "skeleton"),
            (d, {"people": {}}, "people"),
        ],
    )
    what |= change
    path = place.folder / "people.json"
    path.write_text(json.dumps(d), encoding="utf-8")
    return Trial(lambda: strictly(place, d), predict(place, "--boxes", path), "people.json", (says,))


def strictly(place: Place, d: dict[str, Any]) -> object:
    """A people file read, and its boxes used: what a box may not be is known where it is used."""
    people = people_from_json(d)
    return pose_of(place.pose).predict(place.photo, boxes=people.boxes)


@kind
def people_npz_that_lies(place: Place, rng: Rng) -> Trial:
    path = place.folder / "people.npz"
    people_from_json(document(place)).save(path)
    data = path.read_bytes()
    how = choose(rng, ["cut", "noise", "object", "no meta", "other meta", "not a zip"])
    if how == "cut":
        path.write_bytes(data[: int(rng.integers(0, len(data) - 1))])
    elif how == "noise":
        at = int(rng.integers(30, len(data) // 2))
        path.write_bytes(data[:at] + rng.bytes(40) + data[at + 40 :])
    elif how == "object":
        np.savez(path, meta=np.array([Shell(place.marker)], object))
    elif how == "no meta":
        np.savez(path, boxes=np.zeros((1, 4)))
    elif how == "other meta":
        np.savez(path, meta=np.array(choose(rng, ['{"schema": "x"}', "[", "[[]]", "3"])))
    else:
        path.write_bytes(rng.bytes(200))
    # the command reads people from json; it says so
    return Trial(lambda: People.load(path), predict(place, "--boxes", path), "people.npz", ("JSON",))


# ---- checkpoints -------------------------------------------------------------------------------------------


class Shell:
    """Its pickle runs a command."""

    def __init__(self, marker: Path, how: int = 0) -> None:
        self.marker, self.how = marker, how

    def __reduce__(self) -> tuple[Any, ...]:
        command = f"touch {self.marker}"
        ways: list[tuple[Any, ...]] = [
            (os.system, (command,)),
            (subprocess.check_call, (["touch", str(self.marker)],)),
            (eval, (f"__import__('os').system({command!r})",)),
            (exec, (f"open({str(self.marker)!r}, 'w').close()",)),
            (Path.touch, (self.marker,)),
        ]
        return ways[self.how % len(ways)]


def converted(place: Place, path: Path, card: str = "vitpose-b") -> list[object]:
    return ["convert", path, place.folder / "out.safetensors", "--card", card]


def bad_weights(place: Place, path: Path, *says: str) -> Trial:
    def library() -> object:
        return convert(path, place.folder / "out.safetensors", find_card("vitpose-b"))

    return Trial(library, converted(place, path), path.name, says)


@kind
def checkpoint_that_runs_code(place: Place, rng: Rng) -> Trial:
    shell = Shell(place.marker, int(rng.integers(5)))
    tree: Any = choose(rng, [{"state_dict": {"a": shell}}, shell, [shell], {"meta": shell, "state_dict": {}}])
    data = pickle.dumps(tree, protocol=int(rng.integers(0, 6)))
    path = place.folder / choose(rng, ["w.pth", "w.pt", "w.pkl"])
    if rng.random() < 0.5:
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("archive/data.pkl", data)
            z.writestr("archive/version", "3\n")
    # what is not run stays an unknown object, and what holds no weights is no checkpoint
    return bad_weights(place, path, "no weights", "no tensor", "holds", "torch")


def small_state(rng: Rng) -> dict[str, Any]:
    import torch

    return {f"backbone.{i}.weight": torch.from_numpy(rng.random((4, 3), np.float32)) for i in range(4)}


@kind
def checkpoint_truncated(place: Place, rng: Rng) -> Trial:
    import torch

    path = place.folder / "w.pth"
    torch.save(
        {"state_dict": small_state(rng)}, path, _use_new_zipfile_serialization=bool(rng.random() < 0.5)
    )
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(0, len(data) * 9 // 10))])
    return bad_weights(
        place, path, "truncated", "damaged", "empty", "torch", "ends", "tensor", "not a", "no "
    )


@kind
def checkpoint_of_another_model(place: Place, rng: Rng) -> Trial:
    import torch

    state = small_state(rng)
    path = place.folder / "w.pth"
    torch.save(choose(rng, [{"state_dict": state}, state, {"model": state}]), path)
    return bad_weights(place, path, "missing")


@kind
def checkpoint_of_nothing(place: Place, rng: Rng) -> Trial:
    import torch

    path = place.folder / "w.pth"
    tree = choose(rng, [{}, [], 3, "text", {"state_dict": {}}, {"state_dict": 3}, {"meta": {"epoch": 1}}])
    torch.save(tree, path)
    return bad_weights(place, path, "weights", "missing", "holds")


@cache
def small_pose_state() -> dict[str, Any]:
    import torch

    from bodyloop.nn.small import SmallPose

    torch.manual_seed(0)
    return {k: v.numpy() for k, v in SmallPose(19).state_dict().items() if v.dtype.is_floating_point}


@kind
def checkpoint_with_nan(place: Place, rng: Rng) -> Trial:
    from bodyloop.models.build import load_network
    from bodyloop.models.checkpoints import save_safetensors

    state = dict(small_pose_state())
    name = choose(rng, sorted(n for n, v in state.items() if v.size > 1))
    bad = state[name].copy()
    bad.flat[int(rng.integers(bad.size))] = choose(rng, [np.nan, np.inf, -np.inf])
    path = place.folder / "w.safetensors"
    card = replace(find_card("pmpose-n"), name="mine")
    save_safetensors(path, state | {name: bad}, card)
    return Trial(
        lambda: load_network(card, path), ["export", path, place.folder / "out.onnx"], path.name, (name,)
    )  # fmt: skip


@kind
def safetensors_that_lie(place: Place, rng: Rng) -> Trial:
    entry: dict[str, Any] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    entry |= choose(
        rng,
        [
            {"shape": [10**6, 10**6]}, {"shape": [-2, 2]}, {"data_offsets": [0, 10**12]}, {"dtype": "F99"},
            {"data_offsets": [16, 0]}, {"data_offsets": "x"}, {"shape": None}, {"shape": [2, 2, 2]},
        ],
    )  # fmt: skip
    header = json.dumps({"w": entry}).encode()
    length = choose(rng, [len(header), len(header), len(header), 2**62, len(header) * 2])
    path = place.folder / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + bytes(16))
    return bad_weights(place, path, "'w'", "safetensors", "header", "tensor")


# ---- exported files ----------------------------------------------------------------------------------------


def bad_model(place: Place, path: Path, *says: str) -> Trial:
    def library() -> object:
        return api.load_pose(path, detector=None).predict(place.photo, boxes=[BOX])

    return Trial(library, predict(place, "--whole-image", model=path), path.name, says)


@kind
def model_truncated(place: Place, rng: Rng) -> Trial:
    data = place.pose.read_bytes()
    path = place.folder / "m.onnx"
    path.write_bytes(data[: int(rng.integers(0, len(data) - 1))])
    return bad_model(place, path, "truncated", "no ONNX model", "no card", "onnxruntime", "output")


@kind
def model_of_noise(place: Place, rng: Rng) -> Trial:
    path = place.folder / "m.onnx"
    path.write_bytes(rng.bytes(int(rng.integers(0, 300))))
    return bad_model(place, path, "no ONNX model", "truncated", "no outputs", "no card")


@kind
def model_without_a_card(place: Place, rng: Rng) -> Trial:
    import onnx

    model = onnx.load(place.pose)
    del model.metadata_props[:]
    if rng.random() < 0.5:
        onnx.helper.set_model_props(model, {"card": "none", "producer": "somebody"})
    path = place.folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return bad_model(place, path, "card")


@kind
def model_with_a_broken_card(place: Place, rng: Rng) -> Trial:
    import onnx

    model = onnx.load(place.pose)
    text = POSE.to_toml()
    text = choose(
        rng, [text[: int(rng.integers(1, len(text) // 2))], "name = 3", "", "[[", text + "nose = 1\n"]
    )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    path = place.folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return bad_model(place, path, METADATA_KEY)


@kind
def model_of_another_network(place: Place, rng: Rng) -> Trial:
    """A sound file whose card means another network, or a model of another role."""
    path = place.folder / "m.onnx"
    if rng.random() < 0.3:
        write_detector(path, DETECTOR)
        return bad_model(place, path, "detector")
    keypoints = int(choose(rng, [1, 5, 16, 18, 133]))
    write_pose(path, replace(POSE, name="another"), keypoints)
    return bad_model(place, path, "another")


@kind
def detector_of_another_network(place: Place, rng: Rng) -> Trial:
    path = place.folder / "d.onnx"
    if rng.random() < 0.5:
        write_pose(path)
    else:
        size = choose(rng, [(32, 32), (64, 96), (128, 128)])
        write_detector(path, replace(DETECTOR, preprocess=replace(DETECTOR.preprocess, size=size)))

    def library() -> object:
        return api.load_detector(path).detect([read(place.photo)])

    return Trial(
        library, predict(place, "--detector", path), "d.onnx", ("output", "detector", "input", "card")
    )


# ---- cards, configurations, annotations --------------------------------------------------------------------


@kind
def card_that_is_malformed(place: Place, rng: Rng) -> Trial:
    text = POSE.to_toml()
    changes = [
        ("nose = 1\n" + text, "nose"), (text.replace("kind", "sort", 1), "sort"),
        (text.replace('kind = "pose"', 'kind = "cat"'), "kind"),
        (text.replace("size = [48, 64]", "size = [-1, 64]"), "size"),
        (text.replace("size = [48, 64]", "size = [1e999, 64]"), "size"),
        (text.replace("size = [48, 64]", 'size = "large"'), "size"),
        (text.replace("size = [48, 64]", "size = [48, 64, 3]"), "size"),
        (text.replace("mask_alpha = 0.25", "mask_alpha = nan"), "mask_alpha"),
        (text.replace("mask_alpha = 0.25", "mask_alpha = 9"), "mask_alpha"),
        (text.replace('"coco-17"', '"giraffe"'), "skeleton"),
        (text.replace('"expected-oks"', '"guess"'), "method"),
        (text.replace('name = "stand-in-pose"', 'name = "../../etc"'), "name"),
        (text.replace("[licenses]", "[licences]"), "licences"),
        (text[: len(text) // 3] + "= = =", "TOML"), ("[" * 5000, "TOML"), ("\0", "TOML"),
    ]  # fmt: skip
    content, says = choose(rng, changes)
    assert content != text
    path = place.folder / "card.toml"
    path.write_text(content, encoding="utf-8")
    return Trial(lambda: load_card(path), ["models", path], "card.toml", (says,))


@kind
def card_that_is_no_text(place: Place, rng: Rng) -> Trial:
    path = place.folder / "card.toml"
    path.write_bytes(choose(rng, [b"\xff\xfe\x00" + rng.bytes(50), b"#" * 1_100_000, b'name = "\xe9"']))
    return Trial(lambda: load_card(path), ["models", path], "card.toml", ("UTF-8", "card"))


@kind
def configuration_that_is_malformed(place: Place, rng: Rng) -> Trial:
    from bodyloop.train.config import load_config

    content, says = choose(
        rng,
        [
            ("stepps: 3", "stepps"), ("steps: many", "steps"), ("steps: -1", "steps"), ("steps: 1.5", "steps"),
            ("batch: [1]", "batch"), ("lr: null", "lr"), ("precision: fp3", "precision"), ("- 1\n- 2", "table"),
            ("steps: [", "YAML"), ("a: !!python/object/apply:os.system ['touch x']", "YAML"), ("", "table"),
            ("task: nose\nsteps: 3", "task"), ("steps: .nan", "steps"), ("batch: .inf", "batch"),
        ],
    )  # fmt: skip
    path = place.folder / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    from bodyloop.cli.train import task_of

    return Trial(
        lambda: task_of(load_config(path)), ["train", path, "--run", place.folder / "run"],
        "recipe.yaml", (says,),
    )  # fmt: skip


@kind
def annotations_that_are_malformed(place: Place, rng: Rng) -> Trial:
    from bodyloop.eval import evaluate_boxes

    row: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": BOX, "area": 9.0}
    change, says = choose(
        rng,
        [
            ({"bbox": [1, 2, float("nan"), 3]}, "bbox"), ({"bbox": [1]}, "bbox"), ({"bbox": "x"}, "bbox"),
            ({"image_id": 99}, "image_id"), ({"image_id": None}, "image_id"), ({"area": "big"}, "area"),
            ({"category_id": 5}, "category_id"), ({"id": "x"}, "id"),
        ],
    )  # fmt: skip
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "person"}]}
    path, results = place.folder / "truth.json", place.folder / "results.json"
    path.write_text(json.dumps({**truth, "annotations": [row | change]}), encoding="utf-8")
    results.write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5}]), encoding="utf-8"
    )
    return Trial(
        lambda: evaluate_boxes(path, results), ["eval", "boxes", path, results], "truth.json", (says,)
    )  # fmt: skip


# ---- the tests ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("sound")
    return (
        write_pose(folder / "p.onnx"),
        write_detector(folder / "d.onnx"),
        picture(folder / "sound.jpg", size=SIZE),
    )


@pytest.fixture
def place(models: tuple[Path, Path, Path], tmp_path: Path) -> Place:
    return Place(tmp_path, *models, marker=tmp_path / "marker")


def seeded(name: str, seed: int) -> Rng:
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def check(code: int, complaint: str, trial: Trial, place: Place) -> None:
    assert code in (1, 2), complaint
    assert "Traceback" not in complaint
    assert trial.file in complaint, complaint
    assert any(word in complaint for word in trial.says), (complaint, trial.says)
    assert not place.marker.exists()
    leftovers = [
        p.name
        for p in place.folder.rglob("*")
        if p.name.startswith(("out.safe", "out.onnx", ".out")) or p.suffix == ".part"
    ]
    assert not leftovers


@pytest.mark.parametrize("name", KINDS)
def test_malformed(name: str, place: Place, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        here = replace(place, folder=folder)
        trial = KINDS[name](here, seeded(name, seed))
        with pytest.raises(BodyloopError):
            trial.library()
        result = CliRunner().invoke(app, [str(a) for a in trial.arguments], prog_name="bodyloop")
        assert result.exception is None or isinstance(result.exception, SystemExit), (seed, result.exception)
        check(result.exit_code, result.stderr, trial, here)


@pytest.mark.parametrize("name", KINDS)
def test_malformed_in_a_process_of_its_own(name: str, place: Place) -> None:
    trial = KINDS[name](place, seeded(name, 0))
    done = run(*trial.arguments)
    check(done.returncode, done.stderr, trial, place)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize(("stem", "fits"), [("x" * 250, True), ("x" * 256, False)], ids=["fits", "too long"])
def test_names_of_all_lengths(place: Place, stem: str, fits: bool, suffix: str) -> None:
    """A name that the file system takes can be written to; one that it does not is the package's own error."""
    people, path = People(SIZE, boxes=np.float32([BOX])), place.folder / (stem + suffix)
    if fits:
        people.save(path)
        assert People.load(path).allclose(people)
    else:
        with pytest.raises(FileError, match="cannot be written"):
            people.save(path)
    assert [p.name for p in place.folder.iterdir()] == ([path.name] if fits else [])


def test_there_are_kinds_enough() -> None:
    assert len(KINDS) >= 12
    parts = {n.split("-")[0] for n in KINDS}
    assert parts >= {"picture", "boxes", "masks", "people", "checkpoint", "safetensors", "model", "card"}


def test_the_sound_ones_are_sound(place: Place) -> None:
    """What the trials break works before it is broken."""
    boxes = place.folder / "boxes.json"
    boxes.write_text(json.dumps(document(place)), encoding="utf-8")
    for arguments in (predict(place), predict(place, "--boxes", boxes)):
        result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="bodyloop")
        assert result.exit_code == 0, result.output
    assert Card.from_toml(POSE.to_toml()) == POSE
