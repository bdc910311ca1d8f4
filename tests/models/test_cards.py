"""Cards: exact round trips, and malformed ones are refused by file and field."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import BodyloopError, ConfigError, FileError
from bodyloop.models.cards import (
    METADATA_KEY,
    Accuracy,
    Card,
    Decode,
    Detection,
    Double,
    Licenses,
    Preprocess,
    WeightsFile,
    load_card,
)
from bodyloop.skeletons import COCO, Skeleton

POSE = """
name = "mine"
kind = "pose"
architecture = "vit-s"
head = "probability"
skeleton = "coco-17"
outputs = ["maps", "presence"]

[preprocess]
size = [192, 256]
map_size = [48, 64]
mask_alpha = 0.25

[decode]
method = "expected-oks"
temperature = 0.5

[licenses]
code = "MIT"
weights = "MIT"
data = "my own photographs"

[weights]
file = "mine.safetensors"
format = "safetensors"

[[accuracy]]
dataset = "mine"
metric = "AP"
value = 0.5
interval = [0.4, 0.6]
"""

DETECTOR = """
name = "finder"
kind = "detector"
architecture = "rtmdet-n"

[preprocess]
size = [416, 416]
order = "bgr"
input = "uint8-nhwc"

[detection]
score_threshold = 0.3

[licenses]
code = "MIT"
weights = "MIT"
data = "mine"
"""


def test_a_card_says_what_it_says() -> None:
    card = Card.from_toml(POSE)
    assert card.skeleton == COCO and card.num_keypoints == 17
    assert card.preprocess == Preprocess((192, 256), (48, 64), mask_alpha=0.25)
    assert card.preprocess.mean == (123.675, 116.28, 103.53)
    assert card.decode == Decode("expected-oks", temperature=0.5)
    assert card.weights == WeightsFile("mine.safetensors", "safetensors")
    assert card.accuracy == (Accuracy("mine", "AP", 0.5, (0.4, 0.6)),)
    assert not card.licenses.copyleft and Licenses("x", "AGPL-3.0", "y").copyleft
    finder = Card.from_toml(DETECTOR)
    assert finder.detection == Detection(score_threshold=0.3) and finder.num_keypoints == 0


texts = st.text(st.characters(codec="utf-8"), max_size=20)
shares = st.floats(0, 1)
names = st.from_regex(r"[a-z0-9][a-z0-9.+_-]{0,20}", fullmatch=True)
keypoint = st.from_regex(r"(left_|right_)?[a-z-]{1,8}", fullmatch=True)


@st.composite
def skeletons(draw: st.DrawFn) -> Skeleton:
    points = draw(st.lists(keypoint, min_size=1, max_size=6, unique=True))
    pick = st.sampled_from(points)
    plain = Skeleton.define(
        draw(texts.filter(bool)),
        points,
        sigmas=draw(st.lists(st.floats(1e-3, 1), min_size=len(points), max_size=len(points))),
        upper=draw(st.lists(pick, max_size=3)),
        lower=draw(st.lists(pick, max_size=3)),
    )
    index = st.integers(0, len(points) - 1)
    return replace(plain, links=tuple(draw(st.lists(st.tuples(index, index), max_size=4))))


@st.composite
def cards(draw: st.DrawFn) -> Card:
    double = draw(st.booleans())
    decode = Decode(
        draw(st.sampled_from(["expected-oks", "dark-udp"])),
        temperature=draw(st.floats(1e-3, 1000)),
        quality_scale=draw(texts),
        presence_threshold=draw(st.none() | shares),
        double=Double(1.0, draw(st.floats(1.01, 10))) if double else None,
    )
    side = st.integers(1, 8192)
    return Card(
        name=draw(names),
        kind="pose",
        architecture=draw(texts),
        licenses=Licenses(draw(texts), draw(texts), draw(texts)),
        preprocess=Preprocess(
            (draw(side), draw(side)), (draw(side), draw(side)), mask_alpha=draw(st.none() | shares)
        ),
        summary=draw(texts),
        aliases=tuple(draw(st.lists(names, max_size=2))),
        head="double" if double else draw(st.sampled_from(["probability", "plain", "simple"])),
        notes=draw(texts),
        skeleton=draw(skeletons() | st.just(COCO)),
        decode=decode,
        weights=draw(
            st.none()
            | st.builds(
                WeightsFile,
                st.just("a/b-c.pth"),
                st.just("pth"),
                size_bytes=st.none() | st.integers(1, 2**40),
            )
        ),
        accuracy=tuple(
            draw(
                st.lists(
                    st.builds(
                        Accuracy,
                        texts,
                        texts,
                        st.floats(-1e6, 1e6),
                        st.none() | st.tuples(shares, shares),
                        texts,
                    ),
                    max_size=2,
                )
            )
        ),
    )


@settings(max_examples=150, deadline=None)
@given(card=cards())
def test_round_trips_are_exact(card: Card) -> None:
    assert Card.from_toml(card.to_toml()) == card
    assert Card.from_toml(card.to_toml(self_contained=True)) == card
    assert Card.from_metadata(card.to_metadata()) == card


def test_metadata_carries_the_whole_skeleton() -> None:
    card = Card.from_toml(POSE)
    text = card.to_metadata()[METADATA_KEY]
    assert "left_ankle" in text and 'skeleton = "coco-17"' not in text
    assert 'skeleton = "coco-17"' in card.to_toml()
    assert Card.from_metadata({}) is None


def test_a_skeleton_of_ones_own() -> None:
    table = '[skeleton]\nname = "cat"\nkeypoints = ["nose", "left_paw", "right_paw"]\n'
    table += 'links = [["nose", "left_paw"]]\n'
    card = Card.from_toml(POSE.replace('skeleton = "coco-17"\n', "").replace("[decode]", table + "[decode]"))
    assert card.skeleton is not None and card.skeleton.flip.tolist() == [0, 2, 1]
    assert card.skeleton.links == ((0, 1),)


MISTAKES: dict[str, tuple[str, str, str]] = {  # what to replace, by what, what the message must name
    "unknown key": ('kind = "pose"', 'kind = "pose"\nskelton = 3', "'skeleton'"),
    "unknown key below": ("temperature = 0.5", "temperatur = 0.5", "decode: unknown key 'temperatur'"),
    "missing key": ('architecture = "vit-s"', "", "'architecture'"),
    "missing table": (POSE[POSE.index("[licenses]") : POSE.index("[weights]")], "", "'licenses'"),
    "wrong choice": ('"expected-oks"', '"argmax"', "method"),
    "text for a number": ("temperature = 0.5", 'temperature = "0.5"', "temperature"),
    "bool for a number": ("temperature = 0.5", "temperature = true", "temperature"),
    "nan": ("temperature = 0.5", "temperature = nan", "temperature"),
    "infinite": ("mask_alpha = 0.25", "mask_alpha = inf", "mask_alpha"),
    "huge integer": ("size = [192, 256]", f"size = [{10**30}, 256]", "size"),
    "zero size": ("size = [192, 256]", "size = [0, 256]", "size"),
    "three sizes": ("size = [192, 256]", "size = [1, 2, 3]", "size"),
    "size of text": ("size = [192, 256]", 'size = "192x256"', "size"),
    "zero std": ("[decode]", "std = [1, 0, 1]\n[decode]", "std"),
    "alpha above one": ("mask_alpha = 0.25", "mask_alpha = 1.5", "mask_alpha"),
    "zero temperature": ("temperature = 0.5", "temperature = 0", "temperature"),
    "unknown skeleton": ('"coco-17"', '"coco-18"', "coco-17"),
    "unknown output": ('"presence"]', '"presense"]', "'presence'"),
    "path upwards": ('"mine.safetensors"', '"../../etc/passwd"', "file"),
    "absolute path": ('"mine.safetensors"', '"/etc/passwd"', "file"),
    "windows path": ('"mine.safetensors"', "'C:\\x.pth'", "file"),
    "bad repository": ("[[accuracy]]", 'repository = "a/b/c"\n[[accuracy]]', "repository"),
    "bad revision": ("[[accuracy]]", 'revision = "../x"\n[[accuracy]]', "revision"),
    "bad sum": ("[[accuracy]]", 'sha256 = "xyz"\n[[accuracy]]', "sha256"),
    "short sum": ("[[accuracy]]", 'sha256 = "abc0123"\n[[accuracy]]', "sha256"),
    "address without a lock": ("[[accuracy]]", 'url = "http://example.org/x.pth"\n[[accuracy]]', "https"),
    "address of a folder": ("[[accuracy]]", 'url = "https://example.org/"\n[[accuracy]]', "https"),
    "address upwards": ("[[accuracy]]", 'url = "https://example.org/../x.pth"\n[[accuracy]]', "https"),
    "address with a question": ("[[accuracy]]", 'url = "https://example.org/x.pth?a=1"\n[[accuracy]]', "https"),
    "two places": (
        "[[accuracy]]", 'repository = "a/b"\nurl = "https://example.org/x.pth"\n[[accuracy]]', "exclude"
    ),
    "bad name": ('name = "mine"', 'name = "Mine/../x"', "names are"),
    "pose without decode": ('[decode]\nmethod = "expected-oks"\ntemperature = 0.5', "", "'decode'"),
    "pose without head": ('head = "probability"', "", "'head'"),
    "double without windows": ('head = "probability"', 'head = "double"', "double"),
    "list for a table": ("[[accuracy]]", "[accuracy]", "accuracy"),
    "detector without table": ('kind = "pose"', 'kind = "detector"', "detection"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_named(tmp_path: Path, kind: str) -> None:
    old, new, says = MISTAKES[kind]
    assert old in POSE
    path = tmp_path / "card.toml"
    path.write_text(POSE.replace(old, new))
    with pytest.raises(ConfigError) as e:
        load_card(path)
    assert str(path) in str(e.value) and says in str(e.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"name = ",
        b"x = " + b"[" * 50_000,
        b"x = " + b"9" * 10_000,
        b"#" * 2_000_000,
        b"a.b.c = 1\n",
        b'"" = 1\n',
        b"name = [[[[]]]]\n",
        b"skeleton = 1979-05-27\n",
    ],
    ids=range(10),
)
def test_what_is_no_card(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "card.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"card\.toml") as e:
        load_card(path)
    assert len(str(e.value)) < 2000


def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        load_card(tmp_path / "nowhere.toml")
    with pytest.raises(FileError):
        load_card(tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_cards_give_our_error_or_a_card(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        text = list(POSE)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(0, 12)] = rng.choice(
                ["", "\0", '"', "[", "]", "=", "9" * 30, "é", "\n", "'"]
            )
        try:
            Card.from_toml("".join(text), "damaged")
        except BodyloopError as e:
            assert str(e).startswith("damaged")
