"""``bodyloop demo``: what the package can do, on its own photos, offline and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bodyloop.cli._common import AsJson, count_of, example, progress, put_json, say, table
from bodyloop.errors import FileError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bodyloop.drawing import Picture
    from bodyloop.images import Image
    from bodyloop.loop import LoopResult
    from bodyloop.people import People
    from bodyloop.pose.estimator import PoseModel
    from bodyloop.roles import Detector

NAME = "demo"
EXAMPLE = example("bodyloop demo", "bodyloop demo --out demo --json")

SCENES = {"basketball.jpg": "two men with a ball", "street_610.jpg": "a street", "street_198.jpg": "a street"}
PORTRAIT = "astronaut.jpg"
# x1 y1 x2 y2 in the portrait: all of it, then tighter and tighter around the face
CUTS = (
    (0, 0, 512, 512), (10, 0, 450, 440), (70, 0, 390, 300), (110, 0, 330, 220), (145, 10, 305, 165),
)  # fmt: skip
SHOWN = (
    "nose",
    "left_eye",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "left_hip",
    "left_knee",
    "left_ankle",
)
FRAMES = 16  # of the moving picture
ROW = 420  # px, height of the pictures on the sheet
REPLAYED = "street_610.jpg"  # step by step


def command(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the pictures.")] = Path(
        "demo-out"
    ),
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="The pose model.")
    ] = "pmpose-n",
    detector: Annotated[
        str, typer.Option("--detector", metavar="NAME|FILE", help="What finds people.")
    ] = "rtmdet-ins-n",
    segmenter: Annotated[
        str, typer.Option("--segmenter", metavar="NAME|FILE", help="What draws their masks.")
    ] = "pose2seg-n",
    as_json: AsJson = False,
) -> None:
    """Find people in the photos of the package, pose and mask them by the loop, and draw what is known.

    Then a portrait is cropped tighter and tighter: joints leave the picture, and their presence falls.
    """
    from bodyloop.api import load_pipeline, load_pose
    from bodyloop.drawing import animate, contact_sheet, draw, draw_loop, strip

    pose = load_pose(model, detector=None)
    loop = load_pipeline(pose=pose, detector=detector, segmenter=segmenter)
    finder = loop.roles.detector
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"{out}: cannot be made a folder: {e.strerror or e}; choose another --out") from e
    steps = len(SCENES) + len(CUTS) + FRAMES
    results: dict[str, tuple[Image, LoopResult]] = {}
    with progress("demo") as tell:
        scenes, captions = [], []
        for i, (name, what) in enumerate(SCENES.items()):
            photo = _photo(name)
            results[name] = photo, loop.run(photo)
            people = results[name][1].people
            scenes.append(draw(photo, people))
            captions.append(f"{what}: {count_of(len(people), 'person', 'people')}")
            tell(i + 1, steps)
        portrait, box = _portrait(finder)
        looks = [_cropped(portrait, box, cut, pose) for cut in CUTS]
        tell(len(SCENES) + len(CUTS), steps)
        frames = [_cropped(portrait, box, cut, pose)[0] for cut in _between(CUTS, FRAMES)]
        tell(steps, steps)
    values = {name: [_presence(people, name) for _, people in looks] for name in SHOWN}
    percent = [f"{100 * (c[3] - c[1]) // 512} % of the height" for c in CUTS]
    tight = [
        f"{p}: {count_of(sum(v[i] >= 0.5 for v in values.values()), 'joint')} of {len(SHOWN)} here"
        for i, p in enumerate(percent)
    ]
    files = {
        "sheet": out / "demo.png",
        "portrait": out / "portrait.png",
        "moving": out / "portrait.gif",
        "replay": out / "loop.html",
    }
    tightening = strip([p for p, _ in looks], tight, height=ROW)
    rows = [strip(scenes, captions, height=ROW), tightening]
    contact_sheet(rows, columns=1, cell=max(r.size[0] for r in rows), title="bodyloop demo").save(
        files["sheet"]
    )
    tightening.save(files["portrait"])
    animate(frames, files["moving"], fps=4, width=ROW)
    draw_loop(*results[REPLAYED]).save(files["replay"])
    for name, picture in zip(SCENES, scenes, strict=True):
        files[Path(name).stem] = picture.save(out / f"{Path(name).stem}.png")
    if as_json:
        shown = {k: str(v) for k, v in files.items()}
        put_json({"files": shown, "people": captions, "crops": CUTS, "presence": values})
        return
    say(f"Presence: how likely a joint is in the picture, as the portrait is cropped ({pose.card.name})")
    table(
        ["joint", *percent],
        [[n, *(f"{v:.2f}" for v in row)] for n, row in values.items()],
        right=range(1, len(CUTS) + 1),
    )
    for path in files.values():
        say(str(path))


def _photo(name: str) -> Image:
    from bodyloop.images import read

    return read(Path(__file__).parent.parent / "assets" / "photos" / name)


def _portrait(finder: Detector) -> tuple[Image, npt.NDArray[np.float32]]:
    """The portrait and the box of the person in it: the largest found."""
    import numpy as np

    image = _photo(PORTRAIT)
    (people,) = finder.detect([image])
    boxes = people.boxes
    if boxes is None or not len(boxes):
        return image, np.array([0, 0, *image.size], np.float32)
    size = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return image, boxes[int(size.argmax())]


def _cropped(
    image: Image, box: npt.NDArray[np.float32], cut: Sequence[float], pose: PoseModel
) -> tuple[Picture, People]:
    """The picture cut to a rectangle, and the person posed within what is left of the box."""
    import numpy as np

    from bodyloop.drawing import draw
    from bodyloop.images import Image as Photo

    x1, y1, x2, y2 = (round(v) for v in cut)
    part = Photo(np.ascontiguousarray(image.pixels[y1:y2, x1:x2]))
    left = np.clip(box - [x1, y1, x1, y1], 0, [x2 - x1, y2 - y1] * 2)
    if left[2] - left[0] < 8 or left[3] - left[1] < 8:  # the person is not where it is cropped
        left = np.array([0, 0, *part.size], np.float32)
    people = pose.predict(part, boxes=left[None])
    return draw(part, people, canvas="photo", scale=ROW / part.size[1]), people


def _between(cuts: Sequence[Sequence[float]], frames: int) -> list[list[float]]:
    """Rectangles on the way through ``cuts``."""
    out = []
    for t in range(frames):
        at = t / max(frames - 1, 1) * (len(cuts) - 1)
        i = min(int(at), len(cuts) - 2)
        out.append([a + (b - a) * (at - i) for a, b in zip(cuts[i], cuts[i + 1], strict=True)])
    return out


def _presence(people: People, name: str) -> float:
    """The model's presence of a joint of the first person; NaN if it has no such joint.

    Raises:
        InputError: the model says nothing of presence.
    """
    skeleton: Any = people.skeleton
    if people.presence is None:
        raise InputError("this model says nothing of presence; choose another --model")
    if name not in skeleton.keypoints:
        return float("nan")
    return float(people.presence[0, skeleton.index(name)])
