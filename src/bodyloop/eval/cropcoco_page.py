"""The page beside a cropped set: what was made, counts by flag, by keypoint and by picture, samples.

A sample shows a cut photo on a sheet that reaches as far as its labels do: keypoints in colours and looks by
their flag, boxes as lines, activation windows dashed. Which pictures are shown depends on the set alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bodyloop.data.cropcoco import Record
from bodyloop.data.cropcoco_folder import BuiltSet, read_labelled
from bodyloop.drawing import page, palette, shapes
from bodyloop.drawing.canvas import Canvas, Points, Sheet, Stroke
from bodyloop.drawing.figure import Figure, Look, line_width
from bodyloop.drawing.picture import Picture
from bodyloop.geometry import PADDING, activation_windows
from bodyloop.images import Image

SAMPLES = 12
SAMPLE_SIDE = 440  # px of the longer side of a sample
ROWS = 500  # pictures listed one by one; the rest is in statistics.json

# flag: how it is drawn, its colour on charts and photos, what it means
FLAGS: dict[int, tuple[Look, str, str]] = {
    2: (Look.CERTAIN, page.SERIES[0], "visible"),
    1: (Look.HIDDEN, page.SERIES[1], "hidden, or outside the picture but in the window"),
    3: (Look.ABSENT, page.SERIES[3], "outside the window"),
}
LEGEND = (
    "Blue discs: flag 2, visible. Amber rings: flag 1, hidden in the picture, or outside of it but inside the "
    "activation window. Pink broken rings: flag 3, outside the window. Solid rectangles are boxes, dashed ones "
    "windows. The paper around a photo is what was cut away."
)


def write_page(built: BuiltSet, path: Path, made: Mapping[str, object]) -> Path:
    """Write the page of a set.

    Args:
        made: names and values of what it was made from and how, shown as they are.

    Raises:
        MissingDependency: without jinja2 or matplotlib. FileError: a photo cannot be read, the page not written.
    """
    counts = built.crops.statistics
    flags = counts["flags"]
    labelled = max(1, sum(flags[str(f)] for f in FLAGS))
    shares = [
        (f"flag {f}", f"{flags[str(f)]:,}", f"{100 * flags[str(f)] / labelled:.1f} %: {FLAGS[f][2]}")
        for f in FLAGS
    ]
    outside = counts["flags_outside_picture"]
    report = page.Page(
        f"CropCOCO-like set {built.photos.name}",
        "Photos cut so that people leave the picture, with labels that say where they went.",
    ).section(
        "The set",
        page.tiles(
            [
                ("photos", f"{counts['images']:,}", f"{counts['skipped']:,} skipped: nobody to cut"),
                ("persons", f"{counts['annotations']:,}", f"{counts['dropped']:,} dropped: too little left"),
                *shares,
            ]
        ),
        page.paragraph(
            f"Of the points with flag 1, {outside['1']:,} lie outside their picture; of those with flag 3, "
            f"{flags['3'] - outside['3']:,} lie in it, but not in the window of their own person's box. "
            f"{flags['0']:,} keypoints have no label."
        ),
        page.facts(made),
    )
    report = report.section("Keypoints", *_by_keypoint(counts["flags_per_keypoint"]))
    report = report.section(
        "Pictures", *_by_picture(built.crops.document["images"], counts["flags_per_image"])
    )
    report = report.section("Samples", page.paragraph(LEGEND), page.grid(*_samples(built), least=300))
    return report.write(path)


def _by_keypoint(counts: Mapping[str, Mapping[str, int]]) -> list[page.Block]:
    if not counts:
        return [page.paragraph("The file names no keypoints.")]
    names = [name.replace("_", " ") for name in counts]
    drawn, axes = page.figure(5.2, 0.9 + 0.24 * len(names))
    left = np.zeros(len(names))
    for flag, (_, colour, _) in FLAGS.items():
        part = np.array([c[str(flag)] for c in counts.values()])
        axes.barh(names, part, left=left, color=colour, label=f"flag {flag}", height=0.72)
        left += part
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("labelled keypoints")
    page.legend(axes, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    most = max(counts, key=lambda name: counts[name]["3"])
    alt = f"Labelled keypoints by flag for each of {len(names)}; most often outside its window: {most}"
    rows: list[list[page.Cell]] = [
        [name, *(c[str(f)] for f in (2, 1, 3, 0))] for name, c in zip(names, counts.values(), strict=True)
    ]
    table = page.table(["keypoint", "2", "1", "3", "unlabelled"], rows, caption="How many have which flag.")
    return [page.grid(page.chart(drawn, alt), table)]


def _by_picture(images: Sequence[Record], counts: Mapping[str, Mapping[str, int]]) -> list[page.Block]:
    if not counts:
        return [page.paragraph("No picture was taken.")]
    found = Counter(c["3"] for c in counts.values())
    drawn, axes = page.figure(5.2, 2.6)
    axes.bar(list(found), list(found.values()), color=FLAGS[3][1], width=0.8)
    axes.set_xlabel("keypoints of flag 3 in a picture")
    axes.set_ylabel("pictures")
    axes.grid(visible=False, axis="x")
    alt = (
        f"How many pictures have how many points outside windows: {found[0]} have none, at most {max(found)}"
    )
    rows = [
        [
            i["file_name"],
            f"{i['width']} x {i['height']}",
            *(counts[str(i["id"])][str(f)] for f in (2, 1, 3, 0)),
        ]
        for i in images[:ROWS]
    ]
    more = "" if len(images) <= ROWS else f"The first {ROWS} of {len(images)}; statistics.json has all."
    table = page.table(["photo", "size", "2", "1", "3", "unlabelled"], rows, words=2, caption=more)
    return [page.chart(drawn, alt), page.details("Keypoints of each picture by flag", table)]


# ------------------------------------------------------------------ samples


def _samples(built: BuiltSet) -> list[page.Block]:
    """Pictures spread evenly over those in which somebody leaves a window."""
    document = built.crops.document
    counts = built.crops.statistics["flags_per_image"]
    good = [i for i in document["images"] if counts[str(i["id"])]["3"]] or document["images"]
    chosen = [
        good[k] for k in np.unique(np.linspace(0, len(good) - 1, min(SAMPLES, len(good))).round().astype(int))
    ]
    skeletons = [c.get("skeleton") or [] for c in document["categories"] if c.get("keypoints")]
    links = [(int(a) - 1, int(b) - 1) for a, b in skeletons[0]] if skeletons else []
    blocks = []
    for image in chosen:
        people = [a for a in document["annotations"] if a["image_id"] == image["id"] and not a.get("iscrowd")]
        photo = read_labelled(
            built.photos / image["file_name"], [(image["width"], image["height"])], image["id"]
        )
        c = counts[str(image["id"])]
        who = f"{len(people)} {'person' if len(people) == 1 else 'persons'}"
        told = f"{image['file_name']}: {who}; " + ", ".join(f"{c[str(f)]} of flag {f}" for f in FLAGS)
        shown = sample(photo, people, links, document["info"]["cropcoco"]["padding"])
        blocks.append(page.picture(shown, f"Labels on {told}", told))
    return blocks


def sample(
    photo: Image, people: Sequence[Record], links: Sequence[tuple[int, int]], padding: float = PADDING
) -> Picture:
    """A cut photo with its labels, on a sheet that holds all of them.

    Args:
        people: annotations with COCO boxes and keypoints in px of the photo.
        links: pairs of keypoints.
        padding: of the windows.
    """
    boxes = np.array([a["bbox"] for a in people], np.float64).reshape(-1, 4)
    windows = activation_windows(boxes, padding)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    labels = [np.array(a.get("keypoints") or [], np.float64).reshape(-1, 3) for a in people]
    known = [p[p[:, 2] > 0, :2] for p in labels]
    everything = np.concatenate([windows.reshape(-1, 2), *known, [[0, 0], photo.size]])
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = SAMPLE_SIDE / float((high - low).max())
    pad = 8
    margins = [*(np.ceil(-low * scale) + pad), *(np.ceil((high - photo.size) * scale) + pad)]
    left, top, right, bottom = (int(m) for m in margins)
    sheet = Sheet(photo.size, scale, (left, top, right, bottom))
    canvas = Canvas(photo.pixels, sheet)
    canvas.frame(1)
    for i, p in enumerate(labels):
        _rectangle(canvas, corners[i], dashed=False)
        _rectangle(canvas, windows[i], dashed=True)
        _figure(sheet, p, links, float(boxes[i, 2:].max()) * scale).draw(canvas)
    return Picture(canvas.pixels, (left, top), scale)


def _figure(sheet: Sheet, labels: Points, links: Sequence[tuple[int, int]], extent: float) -> Figure:
    flags = labels[:, 2].astype(int).tolist()
    looks = np.array([FLAGS[f][0] if f in FLAGS else Look.NONE for f in flags], np.int8)
    colours = [_rgb(FLAGS[f][1]) if f in FLAGS else palette.INK for f in flags]
    width = line_width(extent, sheet.size)
    return Figure(sheet.place(labels[:, :2]), looks, colours, links, width, np.zeros((len(labels), 2)))


def _rectangle(canvas: Canvas, box: Points, *, dashed: bool) -> None:
    low, high = canvas.sheet.place(box.reshape(2, 2))
    contour = shapes.rectangle(low, high)
    for radius, colour, alpha in ((1.4, palette.INK, 0.7), (0.7, palette.WHITE, 1.0)):
        whole = [Stroke(contour, radius, closed=True)]
        canvas.paint(shapes.dashes(contour, radius, 7, 5, closed=True) if dashed else whole, colour, alpha)


def _rgb(colour: str) -> palette.RGB:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
