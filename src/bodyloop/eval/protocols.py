"""Whose numbers an evaluation repeats: one named set of switches a protocol.

``standard`` mends the known quirks of the public evaluators where that changes no number on sound files;
the others give one tool's numbers, its quirks included (but never its crashes). Every
switch says which quirk it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bodyloop.errors import ConfigError

Protocol = Literal["standard", "pycocotools", "xtcocotools"]


@dataclass(frozen=True)
class Rules:
    """The switches of one protocol.

    Attributes:
        name: of the protocol.
        count_flags: a person counts if some flag is > 0; otherwise if the file's num_keypoints is not 0.
        lose_id_zero: an annotation with id 0 is never counted as found (pycocotools marks "no match" by 0).
        drop_unsure: predictions whose confidences are all <= 0 are removed first.
        mixed_boxes: a file where only some predictions have a bbox is accepted (the first one decides whether
            areas come from boxes), otherwise it is refused.
    """

    name: str
    count_flags: bool
    lose_id_zero: bool
    drop_unsure: bool
    mixed_boxes: bool


RULES: dict[str, Rules] = {
    r.name: r
    for r in (
        Rules("standard", count_flags=True, lose_id_zero=False, drop_unsure=False, mixed_boxes=False),
        Rules("pycocotools", count_flags=False, lose_id_zero=True, drop_unsure=False, mixed_boxes=True),
        Rules("xtcocotools", count_flags=True, lose_id_zero=False, drop_unsure=True, mixed_boxes=True),
    )
}


def rules(protocol: str) -> Rules:
    """The switches of a protocol by name.

    Raises:
        ConfigError: no such protocol.
    """
    if protocol not in RULES:
        raise ConfigError(f"unknown protocol {protocol!r}; known: {', '.join(RULES)}")
    return RULES[protocol]
