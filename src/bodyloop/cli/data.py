"""``bodyloop data``: look for what is wrong with labels, write them in other formats, make their masks.

Every command here is a thin skin over one call of `bodyloop.data`; further ones join `app` from a file of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bodyloop.cli import data_crowds, data_more
from bodyloop.cli._common import AsJson, Device, complain, count_of, example, folded, progress, put_json, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bodyloop.data.labels import Floats
    from bodyloop.data.masking import SegmentPeople

VISIBLE = 2  # flag of a keypoint
NAME = "data"
ABOUT = """Labelled people: check, convert, and make masks for them.

Labels are read in the layouts of COCO (and CropCOCO, CrowdPose, COCO-WholeBody, Halpe, any keypoints of your own),
OCHuman, MPII, AI Challenger, LSP, YOLO-pose, CVAT, Label Studio and OpenPose; which of them is found by the content.
Photos are in folders or tar files, which are not unpacked.
"""
EXAMPLE = example(
    "bodyloop data check my/train.json",
    "bodyloop data convert export.xml my/train.json --to coco",
    "bodyloop data masks mpii.json photos mpii_masks.json --segmenter mine:segment",
)
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=folded(ABOUT), epilog=EXAMPLE)

Photos = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder or tar file of the photos, if not beside the labels."
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="NAME", help="Of the labels, if it shall not be found by their content."
    ),
]
Split = Annotated[
    str, typer.Option("--split", metavar="NAME", help="Part of a YOLO-pose set or folder: train, val, test.")
]


def check(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files or folders of labels.")],
    images: Photos = None,
    format: Format = None,
    split: Split = "train",
    as_json: AsJson = False,
) -> None:
    """Name what is wrong with labels, and what to do about it.

    Errors spoil a training or an evaluation: photos that are missing or of another size, ids used twice, keypoints that
    are too few or not finite, unknown flags, boxes without area or outside. Warnings are worth a look: left and right
    that may be exchanged, keypoints far from their box, masks that do not cover them, people labelled twice. Keypoints
    are counted by name and flag. The exit code is 1 if there is an error.
    """
    from bodyloop.data.check import check_labels

    reports = []
    for path in paths:
        with progress("photos") as tell:
            reports.append(check_labels(path, photos=images, format=format, split=split, progress=tell))
    if as_json:
        put_json(reports[0].to_json() if len(reports) == 1 else [r.to_json() for r in reports])
    else:
        say("\n\n".join(r.text() for r in reports))
    if not all(r.ok for r in reports):
        raise typer.Exit(1)


def convert(
    labels: Annotated[Path, typer.Argument(metavar="IN", help="File or folder of labels.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file, or folder (yolo-pose, openpose).")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="coco, yolo-pose, cvat, label-studio or openpose."),
    ],
    images: Photos = None,
    copy: Annotated[
        bool, typer.Option("--copy-photos", help="Copy the photos to where the written labels look for them.")
    ] = False,
    format: Format = None,
    split: Split = "train",
    as_json: AsJson = False,
) -> None:
    """Write labels in another format, saying what it cannot hold.

    COCO's layout holds everything. What the others lose (masks, areas, hidden keypoints, ...) is counted on stderr, and
    under "lost" with --json. Photos are only read where labels lack their sizes.
    """
    from bodyloop.data.convert import convert as written

    with progress("photos") as tell:
        done = written(
            labels, out, to, photos=images, format=format, split=split, copy_photos=copy, progress=tell
        )
    _complain_of(f"{labels}: left out", done.notes)
    _complain_of(f"{to} cannot hold", done.lost)
    if as_json:
        put_json(done.to_json())
        return
    people = count_of(done.people, "person", "people")
    say(f"{done.out}: {people} on {count_of(done.images, 'photo')}, {done.format} to {done.to}")
    if to == "yolo-pose" and not copy:
        say(f"Its photos belong in {done.out / 'images' / split}")


def _complain_of(what: str, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        complain(f"{what}: {name} ({count})")


def masks(
    labels: Annotated[Path, typer.Argument(metavar="ANN", help="File or folder of labels.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder or tar file of the photos.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new COCO file, or one to go on with.")],
    segmenter: Annotated[
        str,
        typer.Option(
            "--segmenter",
            metavar="NAME|FILE|MODULE:FUNCTION",
            help="A segmenter of `bodyloop models`, or a function of (photo, boxes, keypoints) that gives a bitmap or "
            "None for each person.",
        ),
    ],
    part: Annotated[
        str,
        typer.Option("--part", metavar="I/N", help="Do one of N parts; other processes do the others."),
    ] = "1/1",
    least_side: Annotated[
        float, typer.Option("--least-side", min=1, metavar="PX", help="Smaller boxes get no mask.")
    ] = 8.0,
    format: Format = None,
    split: Split = "train",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Make the masks that MaskPose and PMPose learn from, for sets that have none.

    A segmenter is prompted by box and visible keypoints. A function gets the photo (H, W, 3) uint8 RGB, boxes (N, 4)
    x1 y1 x2 y2 and keypoints (N, K, 3) x y flag in its pixels, and gives N bitmaps (H, W), None for who cannot be
    found. Masks that are there are kept; the input is never written over. A call that was stopped is given again and
    goes on. Processes may share the work by --part 1/4, 2/4, ...: who is last writes OUT. Check the masks with
    `bodyloop data check OUT`.
    """
    from bodyloop.data.masking import make_masks, segmenter_named

    first, _, every = part.partition("/")
    if not (first.isdecimal() and every.isdecimal()):
        raise typer.BadParameter("expected I/N, for instance 1/4", param_hint="--part")
    function = segmenter_named(segmenter) if ":" in segmenter else _prompted(segmenter, device)
    with progress("photos") as tell:
        made = make_masks(
            labels, out, function, photos=images, name=segmenter, format=format, split=split,
            part=(int(first), int(every)), least_side=least_side, progress=tell,
        )  # fmt: skip
    if as_json:
        told = None if made.out is None else str(made.out)
        put_json({"out": told, "counts": dict(made.counts), "groups_done": made.done, "groups": made.groups})
    elif made.out is None:
        say(f"{made.done} of {made.groups} groups of photos are done; the other parts will write {out}")
    else:
        c = made.counts
        without = f"without: {c['small']} too small, {c['empty']} empty"
        say(f"{made.out}: {c['made']} masks made, {c['kept']} were there; {without}")


def _prompted(name: str, device: str) -> SegmentPeople:
    """A segmenter of ours as the function that `bodyloop.data.masking` asks for."""
    import numpy as np

    from bodyloop.api import load_segmenter
    from bodyloop.errors import ModelError
    from bodyloop.images import Image
    from bodyloop.roles import Prompt

    try:
        model = load_segmenter(name, device=device)
    except ModelError as e:
        raise ModelError(f"--segmenter {name}: {e}; or name a function as package.module:function") from e

    def segment(
        photo: npt.NDArray[np.uint8], boxes: Floats, keypoints: Floats, /
    ) -> Sequence[npt.ArrayLike | None]:
        (encoded,) = model.encode([Image(photo)])
        seen = [k[k[:, 2] == VISIBLE, :2] for k in keypoints]
        found = model.segment(
            encoded, [Prompt(p, np.ones(len(p), np.int64), box=b) for p, b in zip(seen, boxes, strict=True)]
        )
        return [found.masks.bitmap(i) if there else None for i, there in enumerate(found.masks.present)]

    return segment


for _command, _lines in (
    (check, ("bodyloop data check my/train.json", "bodyloop data check mpii.mat --images mpii.tar --json")),
    (
        convert,
        (
            "bodyloop data convert train.json yolo --to yolo-pose --copy-photos",
            "bodyloop data convert labels.xml train.json --to coco",
        ),
    ),
    (
        masks,
        (
            "bodyloop data masks mpii.json photos mpii_masks.json --segmenter sam2.1-large --device cuda",
            "bodyloop data masks mpii.json photos mpii_masks.json --segmenter mine:segment --part 1/4",
        ),
    ),
):
    app.command(_command.__name__, help=folded(_command.__doc__), epilog=example(*_lines))(_command)
data_more.register(app)
data_crowds.register(app)
