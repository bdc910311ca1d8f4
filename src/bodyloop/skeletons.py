"""Skeletons: which keypoints a person has, how they are joined, mirrored and weighed.

Every skeleton fact exists once, here; flips are derived from the names (``left_``/``right_``), colours and
drawing from the links. Nothing outside a skeleton knows the number 17. A skeleton of your own:

>>> cat = Skeleton.define("cat", ["nose", "left_paw", "right_paw"], links=["nose-left_paw", "nose-right_paw"])
>>> cat.flip.tolist()
[0, 2, 1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError

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
            raise ConfigError(f"skeleton {name!r}: keypoint names must be present and unique, got {list(names)}")
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
            raise ConfigError(f"skeleton {self.name!r} has no keypoint {keypoint!r}; it has {known}") from None

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
    "left_hip-right_hip", "left_shoulder-left_hip", "right_shoulder-right_hip", "left_shoulder-right_shoulder",
    "left_shoulder-left_elbow", "right_shoulder-right_elbow", "left_elbow-left_wrist",
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
