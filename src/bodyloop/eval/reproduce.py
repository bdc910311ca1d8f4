"""Published numbers: what they are, how each is run, and the page that lists them.

The rows stand in ``reproduce.toml``; `reproduce_run` runs them. Most are secondary copies of tables, and what was run
for them is not always stated: they are for orientation, and each row says how sure it is.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from bodyloop.errors import ConfigError

Kind = Literal["labelled boxes", "detected boxes", "pipeline", "labelled poses", "detector"]
Metric = Literal["keypoints", "Ex-OKS", "boxes", "boxes of masks", "masks"]

TABLE = Path(__file__).with_name("reproduce.toml")
METRICS: Mapping[str, str] = {
    "keypoints": "pose AP (OKS)",
    "Ex-OKS": "pose AP (Ex-OKS)",
    "boxes": "box AP",
    "boxes of masks": "box AP, boxes around the masks",
    "masks": "mask AP",
}


@dataclass(frozen=True)
class Published:
    """A published number and how it is run.

    Attributes:
        id: what the command calls it. group, about: what it belongs to, and what is done there.
        system: as published. kind: what is given and what runs.
        data: a name of `SETS`. metric: a name of `METRICS`. published: AP in per cent.
        told: how sure it is. note: what is not known. missing: why it cannot be run, if it cannot.
        pose, detector, segmenter, pipeline: models by name, "" where there is none or it is the pipeline's.
        masks: the pose model gets masks, too. flip: poses are averaged with the mirrored crop.
        threshold: least score of a detected box. protocol: see `bodyloop.eval.protocols`.
        changes: of the loop's configuration.
    """

    id: str
    group: str
    about: str
    system: str
    kind: Kind
    data: str
    published: float
    told: str
    protocol: str
    metric: Metric = "keypoints"
    note: str = ""
    missing: str = ""
    pose: str = ""
    detector: str = ""
    segmenter: str = ""
    pipeline: str = ""
    masks: bool = False
    flip: bool = True
    threshold: float = 0.3
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> str:
        """The boxes, thresholds and choices of the run, in words."""
        parts: list[str] = [self.kind if self.kind != "pipeline" else "photos only"]
        if self.kind == "labelled boxes" and self.masks:
            parts = ["labelled boxes and masks"]
        if self.kind in ("detected boxes", "detector"):
            parts.append(f"{self.detector} > {self.threshold:g}")
        if self.pipeline:
            changed = "".join(f", {k}={v}" for k, v in self.changes.items())
            parts.append(self.pipeline + changed)
        parts += [self.pose] if self.pose else []
        if self.kind not in ("detector", "labelled poses"):
            parts.append("flip test" if self.flip else "no flip test")
        return "; ".join([*parts, self.protocol])


@dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        title: its name. option: of the command, without dashes.
        labels, photos: where they may lie in the folder; the first that is there is taken.
    """

    title: str
    option: str
    labels: tuple[str, ...]
    photos: tuple[str, ...]


def _ochuman(part: str) -> DataSet:
    name = f"ochuman_coco_format_{part}_range_0.00_1.00.json"
    return DataSet(f"OCHuman {part}", "ochuman", (name, f"annotations/{name}"), ("images",))


_VAL = "person_keypoints_val2017.json"
SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "coco-val": DataSet(
            "COCO val2017", "coco", (f"annotations/{_VAL}", _VAL), ("val2017", "images/val2017", "images")
        ),
        "cropcoco": DataSet("CropCOCO", "cropcoco", (f"annotations/{_VAL}", _VAL), ("val2017", "images")),
        "ochuman-val": _ochuman("val"),
        "ochuman-test": _ochuman("test"),
        "cihp-val": DataSet(
            "CIHP val", "cihp", ("annotations/val.json", "val.json"), ("val", "Validation/Images", "images")
        ),
    }
)


@cache
def published_rows() -> Mapping[str, Published]:
    """All rows by id, in the table's order."""
    document = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    out: dict[str, Published] = {}
    for group in document["group"]:
        common = {k: v for k, v in group.items() if k not in ("name", "rows")}
        for row in group["rows"]:
            made = _row({"group": group["name"], **common, **row})
            if made.id in out:
                raise ConfigError(f"{TABLE.name}: two rows are called {made.id!r}")
            out[made.id] = made
    return MappingProxyType(out)


def _row(told: Mapping[str, Any]) -> Published:
    known = {f.name: f for f in fields(Published)}
    strange = sorted(set(told) - set(known))
    lacking = [n for n, f in known.items() if f.default is f.default_factory is MISSING and n not in told]
    if strange or lacking or told["data"] not in SETS or told.get("metric", "keypoints") not in METRICS:
        raise ConfigError(
            f"{TABLE.name}: row {told.get('id')!r}: unknown {strange}, lacking {lacking}, or its data"
        )
    return Published(**told)


def find_row(name: str) -> Published:
    """A row by its id.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    rows = published_rows()
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no row {name!r}; did you mean {near!r}? bodyloop eval reproduce --list shows all")
    return rows[name]


# ------------------------------------------------------------------ the page

_HEAD = """# Published numbers, and the command for each

One command a row runs what is described and prints the published value beside ours with a 95 % interval over photos:

    bodyloop eval reproduce probpose-s-coco --coco COCO
    bodyloop eval reproduce bmp-v2-ochuman-pose --ochuman OCHUMAN --device cuda --run bmp-v2

Models are fetched from the hub by name, or named as files: `--pose`, `--detector`, `--segmenter`. Weights have licences
of their own (`bodyloop models`). `--run DIR` keeps what was found photo by photo, so that a run goes on where it was
stopped and `--part I/N` shares it; `--limit N` takes a quick look. Quirks of the published code are repeated unless
`--no-parity` is given.

The folders are those that the sets come as:

| option | labels | photos |
|---|---|---|
{places}

Without `--cropcoco`, CropCOCO rows cut the photos of `--coco` by our own procedure, which is not the published set; the
output says so. CIHP's masks have to be written in COCO's layout first.

Most numbers are copies of the papers' tables, and what was run for them is not always stated (last column): they are
for orientation, not thresholds that a reimplementation must reach. RTMDet's own COCO numbers are over 80 classes; the
detectors here are for persons, so they have no row.
"""
_FOOT = """
This page is made of `src/bodyloop/eval/reproduce.toml` by `bodyloop eval reproduce --page`.
"""


def page() -> str:
    """docs/reproduce.md."""
    places = {
        s.option: f"| `--{s.option}` | " + " or ".join(f"`{p}`" for p in s.labels) + " | "
        + " or ".join(f"`{p}/`" for p in s.photos) + " |"
        for s in SETS.values()
        if s.option != "ochuman"
    }  # fmt: skip
    places["ochuman"] = (
        "| `--ochuman` | `ochuman_coco_format_{val,test}_range_0.00_1.00.json`, perhaps in `annotations/` | `images/` |"
    )
    parts = [_HEAD.format(places="\n".join(places[o] for o in sorted(places)))]
    for group in dict.fromkeys(r.group for r in published_rows().values()):
        rows = [r for r in published_rows().values() if r.group == group]
        lines = [f"\n## {group}\n", rows[0].about, ""]
        lines += [
            "| row | system | data | number | published | run with | known from |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_line(r) for r in rows]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts) + _FOOT


def _line(row: Published) -> str:
    told = "; ".join(p for p in (row.told, row.note) if p)
    how = f"cannot be run: {row.missing}" if row.missing else row.given
    cells = (
        f"`{row.id}`",
        row.system,
        SETS[row.data].title,
        METRICS[row.metric],
        f"{row.published:.1f}",
        how,
        told,
    )
    return f"| {' | '.join(cells)} |"
