"""People of every kind for property tests: any set of fields, any values, NaN and far outside included."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.geometry import Crop
from bodyloop.images import Source
from bodyloop.maps import MapLayer, ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import Change, People, Provenance
from bodyloop.skeletons import Skeleton

few = settings(max_examples=40)  # people are slow to draw
SIZE = (9, 7)
PAW = Skeleton.define(
    "paw", ["nose", "left_paw", "right_paw"], links=["nose-left_paw"], upper=["nose"], lower=["left_paw"]
)
numbers = st.floats(-1e5, 1e5, width=32) | st.just(float("nan"))
shares = st.floats(0, 1, width=32) | st.just(float("nan"))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
sources = st.builds(
    Source,
    path=st.none() | texts,
    image_id=st.none() | texts | st.integers(-(2**53), 2**53),
    frame=st.none() | st.integers(0, 2**31),
)
passes = st.none() | st.integers(1, 9)
histories = st.builds(
    Provenance,
    pass_number=passes,
    changes=st.lists(st.builds(Change, what=texts, why=texts, pass_number=passes), max_size=2).map(tuple),
)


def arrays(shape: tuple[int, ...], elements: st.SearchStrategy[float] = numbers) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.float32, shape, elements=elements)


@st.composite
def masks(draw: st.DrawFn, n: int) -> Masks:
    bitmap = st.none() | hnp.arrays(bool, (SIZE[1], SIZE[0]))
    polygon = hnp.arrays(np.float64, (4, 2), elements=st.floats(-2, 12)).map(lambda p: [p])
    return Masks.from_any(draw(st.lists(bitmap | polygon, min_size=n, max_size=n)), SIZE)


@st.composite
def probability_maps(draw: st.DrawFn, n: int) -> ProbabilityMaps:
    def layer(role: Any) -> MapLayer:
        boxes = np.tile(np.float32([1, 2, 5, 6]), (n, 1))
        crop = Crop.from_boxes(boxes, size=(12, 16), map_size=(3, 4))
        return MapLayer(draw(arrays((n, len(PAW), 4, 3), shares)), crop, role)

    roles = draw(st.sampled_from([("single",), ("inner", "outer")]))
    return ProbabilityMaps(tuple(layer(r) for r in roles), np.array([0.6, 1.0, 2.0]))


@st.composite
def people(draw: st.DrawFn, n: int | None = None, skip: frozenset[str] = frozenset()) -> People:
    """People with some of the fields; those named in ``skip`` are never there."""
    n = draw(st.integers(0, 4)) if n is None else n
    k = len(PAW)
    choices: dict[str, st.SearchStrategy[Any]] = {
        "source": sources,
        "skeleton": st.just(PAW),
        "boxes": arrays((n, 4)),
        "scores": arrays((n,), shares),
        "masks": masks(n),
        "mask_scores": arrays((n,), shares),
        "keypoints": arrays((n, k, 2)),
        "map_scores": arrays((n, k), shares),
        "quality": arrays((n, k), shares),
        "presence": arrays((n, k), shares),
        "visibility": arrays((n, k), shares),
        "windows": arrays((n, 4)),
        "maps": probability_maps(n),
        "features": arrays((n, 2, 2, 1)),
        "track_ids": hnp.arrays(np.int64, (n,), elements=st.integers(-1, 2**40)),
        "provenance": st.lists(histories, min_size=n, max_size=n).map(tuple),
        "extra": st.fixed_dictionaries(
            {},
            optional={
                "weight": arrays((n, 2)),
                "hat": hnp.arrays(bool, (n,)),
                "age": hnp.arrays(np.int32, (n,)),
                "name": hnp.arrays("<U5", (n,), elements=texts),
            },
        ),
    }
    there = draw(st.sets(st.sampled_from(sorted(choices.keys() - skip))))
    return People(SIZE, **{name: draw(choices[name]) for name in sorted(there)})
