"""Skeletons: which keypoints a person has, how they are joined, mirrored and weighed.

Every skeleton fact exists once, here; flips are derived from the names (``left_``/``right_``), colours and
drawing from the links. Nothing outside a skeleton knows the number 17. A skeleton of your own:

>>> cat = Skeleton.define("cat", ["nose", "left_paw", "right_paw"], links=["nose-left_paw", "nose-right_paw"])
>>> cat.flip.tolist()
[0, 2, 1]

or the same in a TOML file, read by `load_skeleton`. Skeletons map onto each other by name
(`Skeleton.indices_in`) or by the tables that the published models were trained with (`merge_table`).
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError, FileError

DEFAULT_SIGMA = 0.079  # a shoulder's: the middle of COCO's range, for keypoints nobody measured


@dataclass(frozen=True)
class Skeleton:
    """Names, links and constants of K keypoints.

    Attributes:
        name: short identifier, as cards and files write it.
        keypoints: K names; ``left_x`` and ``right_x`` are mirror images of each other.
        links: pairs of keypoint indices that are drawn as limbs.
        sigmas: K standard deviations of the labels relative to the object's scale (COCO's OKS constants).
        upper, lower: indices of the upper and lower body (half-body augmentation).
    """

    name: str
    keypoints: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper: tuple[int, ...] = ()
    lower: tuple[int, ...] = ()

    @classmethod
    def define(
        cls,
        name: str,
        keypoints: Sequence[str],
        *,
        links: Sequence[str] = (),
        sigmas: Mapping[str, float] | Sequence[float] | None = None,
        upper: Sequence[str] = (),
        lower: Sequence[str] = (),
    ) -> Skeleton:
        """Build a skeleton from names. Links are ``"a-b"``; sigmas a list or a table by name (without side).

        Raises:
            ConfigError: a name occurs twice, a link or list names an unknown keypoint, or a count differs.
        """
        names = tuple(keypoints)
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"skeleton {name!r}: keypoint names must be present and unique, got {list(names)}"
            )
        at = {k: i for i, k in enumerate(names)}

        def find(k: str) -> int:
            if k not in at:
                raise ConfigError(f"skeleton {name!r}: unknown keypoint {k!r}; known: {', '.join(names)}")
            return at[k]

        pairs = []
        for link in links:
            a, _, b = link.partition("-")
            pairs.append((find(a), find(b)))
        if sigmas is None:
            values = [DEFAULT_SIGMA] * len(names)
        elif isinstance(sigmas, Mapping):
            values = [float(sigmas.get(k, sigmas.get(_unsided(k), DEFAULT_SIGMA))) for k in names]
        else:
            values = [float(s) for s in sigmas]
        if len(values) != len(names):
            raise ConfigError(f"skeleton {name!r}: {len(names)} keypoints but {len(values)} sigmas")
        if any(not s > 0 for s in values):
            raise ConfigError(f"skeleton {name!r}: sigmas must be positive, got {values}")
        return cls(
            name,
            names,
            tuple(pairs),
            tuple(values),
            tuple(find(k) for k in upper),
            tuple(find(k) for k in lower),
        )

    def __len__(self) -> int:
        return len(self.keypoints)

    def index(self, keypoint: str) -> int:
        """Index of a keypoint by name.

        Raises:
            ConfigError: no such keypoint; the message lists the names.
        """
        try:
            return self.keypoints.index(keypoint)
        except ValueError:
            known = ", ".join(self.keypoints)
            raise ConfigError(
                f"skeleton {self.name!r} has no keypoint {keypoint!r}; it has {known}"
            ) from None

    @cached_property
    def flip(self) -> npt.NDArray[np.intp]:
        """(K,) index of each keypoint's mirror image (itself where there is none), read-only."""
        at = {k: i for i, k in enumerate(self.keypoints)}
        f = np.array([at.get(_mirrored(k), i) for i, k in enumerate(self.keypoints)], np.intp)
        f.flags.writeable = False
        return f

    @cached_property
    def sigma_array(self) -> npt.NDArray[np.float64]:
        """(K,) sigmas as a read-only array."""
        s = np.array(self.sigmas, np.float64)
        s.flags.writeable = False
        return s

    def indices_in(self, other: Skeleton) -> npt.NDArray[np.intp]:
        """(K,) index in ``other`` of each keypoint by name, -1 where ``other`` lacks it."""
        at = {k: i for i, k in enumerate(other.keypoints)}
        return np.array([at.get(k, -1) for k in self.keypoints], np.intp)


def _mirrored(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name[5:]
    if name.startswith("right_"):
        return "left_" + name[6:]
    return name


def _unsided(name: str) -> str:
    return name.removeprefix("left_").removeprefix("right_")


def _sided(*names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{n}" for n in names for side in ("left", "right"))


_COCO_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072,
    "wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
_COCO_UPPER = ("nose", *_sided("eye", "ear", "shoulder", "elbow", "wrist"))
_COCO_LOWER = _sided("hip", "knee", "ankle")
_COCO_LINKS = (
    "left_ankle-left_knee", "left_knee-left_hip", "right_ankle-right_knee", "right_knee-right_hip",
    "left_hip-right_hip", "left_shoulder-left_hip", "right_shoulder-right_hip",
    "left_shoulder-right_shoulder", "left_shoulder-left_elbow", "right_shoulder-right_elbow",
    "left_elbow-left_wrist",
    "right_elbow-right_wrist", "left_eye-right_eye", "nose-left_eye", "nose-right_eye", "left_eye-left_ear",
    "right_eye-right_ear", "left_ear-left_shoulder", "right_ear-right_shoulder",
)  # fmt: skip

COCO = Skeleton.define(
    "coco-17",
    (*_COCO_UPPER, *_COCO_LOWER),
    links=_COCO_LINKS,
    sigmas=_COCO_SIGMAS,
    upper=_COCO_UPPER,
    lower=_COCO_LOWER,
)

# COCO's keypoints with the two that sports data sets (LSP, CrowdPose, AIC) add: what our own models predict.
BODY_19 = Skeleton.define(
    "body-19",
    (*COCO.keypoints, "neck", "head_top"),
    links=(*_COCO_LINKS, "neck-head_top"),
    sigmas={**_COCO_SIGMAS, "neck": 0.079, "head_top": 0.035},
    upper=(*_COCO_UPPER, "neck", "head_top"),
    lower=_COCO_LOWER,
)


def _table(
    name: str,
    keypoints: Sequence[str],
    lower: Iterable[str],
    links: str,
    sigmas: Mapping[str, float] | Sequence[float],
    upper: Sequence[str] | None = None,
) -> Skeleton:
    """A published skeleton. Links: a text of ``a-b`` (``*_a-b``: both sides); what is not lower is upper."""
    legs = frozenset(lower)
    body = [k for k in keypoints if k not in legs] if upper is None else upper
    pairs = [
        link.replace("*", side)
        for link in links.split()
        for side in (("left", "right") if "*" in link else ("",))
    ]
    return Skeleton.define(
        name,
        keypoints,
        links=pairs,
        sigmas=sigmas,
        upper=body,
        lower=[k for k in keypoints if k in legs],
    )


def _limb(side: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{n}" for n in names)


_ARMS_AND_LEGS = "*_shoulder-*_elbow *_elbow-*_wrist *_hip-*_knee *_knee-*_ankle"
_FEET_SIGMAS = {"big_toe": 0.068, "little_toe": 0.066, "heel": 0.066}
_HEAD_SIGMAS = {"neck": 0.079, "head_top": 0.035}

MPII_16 = _table(
    "mpii-16",
    (
        *_limb("right", "ankle", "knee", "hip"), *_limb("left", "hip", "knee", "ankle"),
        "pelvis", "thorax", "upper_neck", "head_top",
        *_limb("right", "wrist", "elbow", "shoulder"), *_limb("left", "shoulder", "elbow", "wrist"),
    ),
    ("pelvis", *_COCO_LOWER),
    f"{_ARMS_AND_LEGS} *_hip-pelvis pelvis-thorax thorax-upper_neck upper_neck-head_top "
    "upper_neck-*_shoulder",
    {
        "ankle": 0.089, "knee": 0.083, "hip": 0.107, "pelvis": 0.026, "thorax": 0.026, "upper_neck": 0.026,
        "head_top": 0.026, "wrist": 0.062, "elbow": 0.072, "shoulder": 0.179,
    },
)  # fmt: skip

AIC_14 = _table(
    "aic-14",
    (
        *_limb("right", "shoulder", "elbow", "wrist"), *_limb("left", "shoulder", "elbow", "wrist"),
        *_limb("right", "hip", "knee", "ankle"), *_limb("left", "hip", "knee", "ankle"), "head_top", "neck",
    ),
    _COCO_LOWER,
    f"{_ARMS_AND_LEGS} neck-*_shoulder left_hip-right_hip head_top-neck *_shoulder-*_hip",
    (
        0.013882, 0.015152, 0.010577, 0.014177, 0.014979, 0.014021, 0.039096, 0.036869, 0.019818, 0.03844,
        0.034123, 0.024151, 0.012915, 0.012362,
    ),
)  # fmt: skip

CROWDPOSE_14 = _table(
    "crowdpose-14",  # its files call the last but one "head"
    (*_sided("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), "head_top", "neck"),
    _COCO_LOWER,
    f"{_ARMS_AND_LEGS} neck-*_shoulder left_hip-right_hip head_top-neck *_shoulder-*_hip",
    {**_COCO_SIGMAS, "neck": 0.079, "head_top": 0.079},
)

LSP_14 = _table(
    "lsp-14",  # published without sigmas: COCO's, and for the head those of BODY_19
    (
        *_limb("right", "ankle", "knee", "hip"), *_limb("left", "hip", "knee", "ankle"),
        *_limb("right", "wrist", "elbow", "shoulder"), *_limb("left", "shoulder", "elbow", "wrist"),
        "neck", "head_top",
    ),
    _COCO_LOWER,
    f"{_ARMS_AND_LEGS} neck-*_shoulder left_hip-right_hip neck-head_top *_shoulder-*_hip",
    {**_COCO_SIGMAS, **_HEAD_SIGMAS},
)  # fmt: skip

OCHUMAN_19 = _table(
    "ochuman-19",  # its files call the thirteenth "head"
    (*AIC_14.keypoints, "right_ear", "left_ear", "nose", "right_eye", "left_eye"),
    _COCO_LOWER,
    f"{_ARMS_AND_LEGS} neck-*_shoulder left_hip-right_hip head_top-neck *_shoulder-*_hip "
    "nose-*_eye *_eye-*_ear",
    {**_COCO_SIGMAS, **_HEAD_SIGMAS},
)

_TRUNK = " ".join(_COCO_LINKS)
# channels of the published 21: thorax also learned AIC's neck, head top also AIC's
MERGED_21 = _table(
    "merged-21",
    (*COCO.keypoints, "thorax", "neck_mpii", "head_top", "pelvis"),
    (*_COCO_LOWER, "pelvis"),
    f"{_ARMS_AND_LEGS} *_hip-pelvis *_shoulder-*_hip *_shoulder-thorax thorax-neck_mpii neck_mpii-head_top "
    "left_eye-right_eye nose-*_eye *_eye-*_ear *_ear-*_shoulder",
    {**_COCO_SIGMAS, "thorax": 0.079, "neck_mpii": 0.079, "head_top": 0.035, "pelvis": 0.107},
)
_EXTRA_23 = {
    "thorax_mpii": 0.079, "pelvis_mpii": 0.107, "neck_mpii": 0.079, "head_top_mpii": 0.035,
    "neck_aic": 0.079, "head_top_aic": 0.035,
}  # fmt: skip
MERGED_23 = _table(
    "merged-23",
    (*COCO.keypoints, *_EXTRA_23),
    (*_COCO_LOWER, "pelvis_mpii"),
    _TRUNK,
    {**_COCO_SIGMAS, **_EXTRA_23},
)
_TIP_SIGMAS = {
    "thumb_tip": 0.047, "index_tip": 0.035, "middle_tip": 0.026, "ring_tip": 0.032, "little_tip": 0.031
}  # fmt: skip
_FEET = tuple(k for side in ("left", "right") for k in _limb(side, *_FEET_SIGMAS))
MERGED_41 = _table(
    "merged-41",
    (
        *MERGED_23.keypoints, *_FEET, *_limb("left", *_TIP_SIGMAS), *_limb("right", *_TIP_SIGMAS),
        "right_mouth_corner", "left_mouth_corner",
    ),
    (*_COCO_LOWER, "pelvis_mpii", *_FEET),
    _TRUNK,
    {**_COCO_SIGMAS, **_EXTRA_23, **_FEET_SIGMAS, **_TIP_SIGMAS, "mouth_corner": 0.008},
)  # fmt: skip


def _mirror_row(*half: str, middle: str = "") -> list[str]:
    """A row of face points from the person's right to left: the right half, the middle, the half mirrored."""
    right, left = [f"right_{h}" for h in half], [f"left_{h}" for h in reversed(half)]
    return [*right, *([middle] if middle else []), *left]


def _numbered(name: str, n: int) -> list[str]:
    return [f"{name}_{i}" for i in range(1, n + 1)]


def _face() -> list[str]:
    """The 68 points of the face (files number them only), named so that mirror images are known by name.

    They run over the picture of a person facing the camera from left to right: the person's right first.
    """
    jaw = _mirror_row(*_numbered("jaw", 8), middle="chin")
    brows = _mirror_row(*_numbered("brow", 5))
    nose = [*_numbered("nose_bridge", 4), *_mirror_row("nostril_1", "nostril_2", middle="nose_base")]
    lid = {side: [f"{side}_eyelid_{i}" for i in range(1, 7)] for side in ("right", "left")}
    left_eye = [lid["left"][i] for i in (3, 2, 1, 0, 5, 4)]
    upper = _mirror_row("mouth_corner", "upper_lip_2", "upper_lip_1", middle="upper_lip")
    lower = _mirror_row("lower_lip_2", "lower_lip_1", middle="lower_lip")[::-1]
    inner = _mirror_row("inner_corner", "inner_upper_lip", middle="inner_upper_lip")
    inner_lower = ["left_inner_lower_lip", "inner_lower_lip", "right_inner_lower_lip"]
    return [*jaw, *brows, *nose, *lid["right"], *left_eye, *upper, *lower, *inner, *inner_lower]


_FINGERS = [
    f"{f}{i}"
    for f in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
    for i in range(1, 5)
]
_WHOLE_FEET = tuple(k for side in ("left", "right") for k in _limb(side, "big_toe", "small_toe", "heel"))
_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021,
    0.021, 0.032, 0.02, 0.019, 0.022, 0.031,
)  # fmt: skip
_FACE_SIGMAS = (
    0.042, 0.043, 0.044, 0.043, 0.04, 0.035, 0.031, 0.025, 0.02, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043,
    0.041, 0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007,
    0.007, 0.012, 0.009, 0.008, 0.016, 0.01, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011,
    0.012, 0.01, 0.034, 0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.01, 0.008, 0.009, 0.009, 0.009, 0.007,
    0.007, 0.008, 0.011, 0.008, 0.008, 0.008, 0.01, 0.008,
)  # fmt: skip
_FINGER_LINKS = " ".join(
    f"*_{a}-*_{b}" for k, b in enumerate(_FINGERS) for a in [_FINGERS[k - 1] if k % 4 else "hand_root"]
)

COCO_WHOLEBODY_133 = _table(
    "coco-wholebody-133",
    (
        *COCO.keypoints, *_WHOLE_FEET, *_face(), *_limb("left", "hand_root", *_FINGERS),
        *_limb("right", "hand_root", *_FINGERS),
    ),
    (*_COCO_LOWER, *_WHOLE_FEET),
    f"{_TRUNK} *_ankle-*_big_toe *_ankle-*_small_toe *_ankle-*_heel {_FINGER_LINKS}",
    (*COCO.sigmas, 0.068, 0.066, 0.066, 0.092, 0.094, 0.094, *_FACE_SIGMAS, *_HAND_SIGMAS, *_HAND_SIGMAS),
    _COCO_UPPER,
)  # fmt: skip

HALPE_136 = _table(
    "halpe-136",  # its files name nothing; sigmas of the same points elsewhere
    (*COCO.keypoints, "head_top", "neck", "pelvis", *_sided("big_toe", "small_toe", "heel"),
     *COCO_WHOLEBODY_133.keypoints[23:]),
    (*_COCO_LOWER, "pelvis", *_WHOLE_FEET),
    f"{_TRUNK} neck-head_top *_ankle-*_big_toe *_ankle-*_small_toe *_ankle-*_heel {_FINGER_LINKS}",
    (*COCO.sigmas, 0.035, 0.079, 0.107, *[0.068] * 2, *[0.066] * 4, *COCO_WHOLEBODY_133.sigmas[23:]),
)  # fmt: skip

SKELETONS: dict[str, Skeleton] = {
    s.name: s
    for s in (
        COCO, MPII_16, AIC_14, CROWDPOSE_14, LSP_14, OCHUMAN_19, MERGED_21, MERGED_23, MERGED_41,
        COCO_WHOLEBODY_133, HALPE_136, BODY_19,
    )
}  # fmt: skip


def skeleton_by_name(name: str) -> Skeleton:
    """One of our skeletons; upper case and underscores do not matter.

    Raises:
        ConfigError: no such skeleton; the message names the nearest one.
    """
    plain = name.strip().lower().replace("_", "-")
    if plain in SKELETONS:
        return SKELETONS[plain]
    near = difflib.get_close_matches(plain, SKELETONS, 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"no skeleton {name!r}; {hint}known: {', '.join(SKELETONS)}")


def load_skeleton(path: str | os.PathLike[str]) -> Skeleton:
    """A skeleton of your own from TOML: the arguments of `Skeleton.define` as keys.

    ``name`` and ``keypoints`` are needed; ``links``, ``sigmas`` (a list, or a table by name), ``upper`` and
    ``lower`` may be there.

    Raises:
        FileError: the file cannot be read or is not TOML.
        ConfigError: a key that does not belong there, or a value that does not fit.
    """
    name = os.fspath(path)
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as e:
        raise FileError(f"{name}: cannot be read: {e.strerror or e}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, RecursionError) as e:
        raise FileError(f"{name}: not a TOML file: {e}") from e
    known = ("name", "keypoints", "links", "sigmas", "upper", "lower")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{name}: unknown key {key!r}; {hint}known: {', '.join(known)}")
    if not isinstance(table.get("name"), str) or not table["name"]:
        raise ConfigError(f"{name}: needs a name, as text")
    for key in ("keypoints", "links", "upper", "lower"):
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{name}: {key} must be a list of texts")
    if not table.get("keypoints"):
        raise ConfigError(f"{name}: needs keypoints, a list of names")
    try:
        return Skeleton.define(**table)
    except ConfigError as e:
        raise ConfigError(f"{name}: {e}") from e
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name}: sigmas must be numbers, as a list or a table by name: {e}") from e


# published tables of the joint training: source index -> merged index (spec of the pose models, 11.2)
_MPII_TO_COCO = {0: 16, 1: 14, 2: 12, 3: 11, 4: 13, 5: 15, 10: 10, 11: 8, 12: 6, 13: 5, 14: 7, 15: 9}
_AIC_TO_COCO = {0: 6, 1: 8, 2: 10, 3: 5, 4: 7, 5: 9, 6: 12, 7: 14, 8: 16, 9: 11, 10: 13, 11: 15}
_MPII_TO_23 = {**_MPII_TO_COCO, 6: 18, 7: 17, 8: 19, 9: 20}
_AIC_TO_23 = {**_AIC_TO_COCO, 12: 22, 13: 21}
_FIRST_17 = {i: i for i in range(17)}
_LEFT_MOUTH = 72  # of WholeBody: next to the right corner, taken for the left one; 77 is right
_WHOLEBODY_TO_41 = {
    **{i: i for i in range(17)},
    **{17 + i: 23 + i for i in range(6)},
    **dict(
        zip((95, 99, 103, 107, 111, 116, 120, 124, 128, 132, 71, _LEFT_MOUTH), range(29, 41), strict=True)
    ),
}
_MERGES = {
    ("coco-17", "merged-21"): _FIRST_17,
    ("coco-17", "merged-23"): _FIRST_17,
    ("coco-17", "merged-41"): _FIRST_17,
    ("mpii-16", "merged-21"): {**_MPII_TO_COCO, 6: 20, 7: 17, 8: 18, 9: 19},
    ("mpii-16", "merged-23"): _MPII_TO_23,
    ("mpii-16", "merged-41"): _MPII_TO_23,
    ("aic-14", "merged-21"): {**_AIC_TO_COCO, 12: 19, 13: 17},
    ("aic-14", "merged-23"): _AIC_TO_23,
    ("aic-14", "merged-41"): _AIC_TO_23,
    ("coco-wholebody-133", "merged-41"): _WHOLEBODY_TO_41,
}


def merge_table(source: Skeleton, target: Skeleton, *, published: bool = True) -> npt.NDArray[np.intp]:
    """(len(source),) index in ``target`` that each keypoint of ``source`` trains, -1 for none.

    The tables of the published joint training where there is one, otherwise by name.

    Args:
        published: False takes the true left corner of the mouth (77) where WholeBody's 72 was taken for it.
    """
    table = _MERGES.get((source.name, target.name))
    if table is None:
        return source.indices_in(target)
    out = np.full(len(source), -1, np.intp)
    out[list(table)] = list(table.values())
    if not published and source.name == "coco-wholebody-133":
        out[_LEFT_MOUTH], out[source.index("left_mouth_corner")] = -1, target.index("left_mouth_corner")
    return out
