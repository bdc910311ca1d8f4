"""Names of RTMDet's tensors: ours are those of MMDetection's files, in which some tensors have several names.

The branches share their convolutions over the three levels, and in the published RTMDet-Ins the box branch is the
class branch, batch norms included; a file holds them under every name. `canonical_rtmdet` makes sure that they
agree, and fills the names that a file leaves out. Source: loop specification sections 3.5, 3.10 and 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from bodyloop.errors import ModelError
from bodyloop.models.keymaps import COUNTER, Array, StateDict

_STEM, _CLASSES = "backbone.stem.2.conv.weight", "bbox_head.rtm_cls.0.weight"
_SMALL = "laterals.convs.0.conv.weight"  # only our own small ones have laterals
_STEMS = {24: "tiny", 32: "s", 48: "m", 64: "l", 80: "x"}
_TOWER = re.compile(r"(?P<head>.*\.)(?P<branch>cls|reg|kernel)_convs\.\d\.(?P<place>\d+)\.(?P<leaf>.+)")


def recognise_rtmdet(state: Mapping[str, Array]) -> str | None:
    """The architecture that a state dict belongs to, None if it is no RTMDet of ours."""
    stem = state.get(_STEM)
    if _CLASSES not in state:
        return None
    size = "n" if _SMALL in state else _STEMS.get(0 if stem is None or not stem.ndim else len(stem))
    kind = "rtmdet-ins-" if "bbox_head.rtm_kernel.0.weight" in state else "rtmdet-"
    return None if size is None else kind + size


def classes_of(state: Mapping[str, Array]) -> int | None:
    """The number of classes that a state dict's head tells apart, None if it has no such head."""
    head = state.get(_CLASSES)
    return None if head is None or head.ndim != 4 else len(head)


def canonical_rtmdet(state: Mapping[str, Array], architecture: str, names: Iterable[str]) -> StateDict:
    """The tensors of a file, those that have several names under all of ``names``.

    Raises:
        ModelError: two names of one tensor hold different numbers.
    """
    first: dict[str, str] = {}
    for name, value in state.items():
        known = first.setdefault(_one_name(name, architecture), name)
        if known != name and not name.endswith(COUNTER) and not np.array_equal(value, state[known]):
            raise ModelError(
                f"{known!r} and {name!r} are one tensor in {architecture}, and differ in the file"
            )
    out = dict(state)
    for name in names:
        twin = first.get(_one_name(name, architecture))
        if name not in out and twin is not None:
            out[name] = state[twin]
    return out


def distinct(state: Mapping[str, Array], architecture: str) -> StateDict:
    """Every tensor once, under one of its names."""
    return {_one_name(n, architecture): v for n, v in state.items()}


def _one_name(name: str, architecture: str) -> str:
    """The same text for all names of one tensor."""
    m = _TOWER.fullmatch(name)
    if m is None:
        return name
    ours, instances = architecture.endswith("-n"), "-ins-" in architecture
    branch = "cls" if m["branch"] == "reg" and instances and not ours else m["branch"]
    if m["leaf"] == "conv.weight" and (branch != "kernel" or ours):
        return f"{m['head']}{branch}_convs.{m['place']}.{m['leaf']}"
    return name.replace(f".{m['branch']}_convs.", f".{branch}_convs.")
