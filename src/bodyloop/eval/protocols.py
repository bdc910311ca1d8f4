"""Whose numbers an evaluation repeats: one named set of switches a protocol.

``standard`` mends the known quirks of the public evaluators where that changes no number on sound files;
the others give one tool's numbers, its quirks included (but never its crashes). Every
switch says which quirk it is. The defaults are the standard's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bodyloop.errors import ConfigError

Protocol = Literal["standard", "pycocotools", "xtcocotools", "exococotools"]
Distance = Literal["edge", "corner"]


@dataclass(frozen=True)
class Rules:
    """The switches of one protocol.

    Attributes:
        name: of the protocol.
        count_flags: a person counts if some flag is > 0; otherwise if the file's num_keypoints is not 0.
        lose_id_zero: an annotation with id 0 is never counted as found (pycocotools marks "no match" by 0).
        drop_unsure: predictions whose confidences are all <= 0 are removed first (xtcocotools, exococotools).
        mixed_boxes: a file where only some predictions have a bbox is accepted (the first one decides whether
            areas come from boxes), otherwise it is refused.

        The rest are exococotools' own:

        ignore_crowd: crowds are not to be found; otherwise a crowd with keypoints is a person like others.
        alarms_everywhere: predictions in images where nobody is to be found count as wrong; otherwise they
            count for nothing, plain runs included.
        threes_labelled: without the extension a flag of 3 is a labelled keypoint; otherwise it is unlabelled.
        all_levels: visibility levels are always 1, 2, 3; otherwise the flags found in the file.
        presence_field: a prediction's ``presence`` goes before the third number of its keypoints.
        distance: from a point to its window: to the border (the paper), or to the nearest corner.
        single_window: windows are rounded to float32.
    """

    name: str
    count_flags: bool = True
    lose_id_zero: bool = False
    drop_unsure: bool = False
    mixed_boxes: bool = False
    ignore_crowd: bool = True
    alarms_everywhere: bool = True
    threes_labelled: bool = True
    all_levels: bool = True
    presence_field: bool = True
    distance: Distance = "edge"
    single_window: bool = False


RULES: dict[str, Rules] = {
    r.name: r
    for r in (
        Rules("standard"),
        Rules("pycocotools", count_flags=False, lose_id_zero=True, mixed_boxes=True),
        Rules("xtcocotools", drop_unsure=True, mixed_boxes=True),
        Rules(
            "exococotools",
            drop_unsure=True,
            mixed_boxes=True,
            ignore_crowd=False,
            alarms_everywhere=False,
            threes_labelled=False,
            all_levels=False,
            presence_field=False,
            distance="corner",
            single_window=True,
        ),
    )
}
EXTENDED = ("standard", "exococotools")  # the others know no extension and no levels
DISTANCES: tuple[str, ...] = get_args(Distance)


def rules(protocol: str) -> Rules:
    """The switches of a protocol by name.

    Raises:
        ConfigError: no such protocol.
    """
    if protocol not in RULES:
        raise ConfigError(f"unknown protocol {protocol!r}; known: {', '.join(RULES)}")
    return RULES[protocol]
