"""How long does a pass of the loop take, role by role, and what does the loop itself add?

    python benchmarks/loop.py                            # bmp-n; bmp-v2 where its weights can be had
    python benchmarks/loop.py bmp-v2 --random-weights    # the architectures of bmp-v2, whatever they answer
    python benchmarks/loop.py bmp-v2 --device cuda --precision bf16 --repeat 20

One photo of 640 px and five people, three of them found in the first pass and two in the second. The networks run
as always; what they answer is then replaced by known people, so that the loop has the same work with any weights.
Printed are milliseconds of each role, a call and a person, the loop's own time and its share of the roles', and how
often the photo was encoded. Numbers are of the run with the least time for the loop itself after one to warm up; on a
machine with other work use --cpu-time.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bodyloop.api import PIPELINES, load_detector, load_pose, load_segmenter
from bodyloop.errors import BodyloopError
from bodyloop.images import Image, read
from bodyloop.loop import BodyLoop, LoopResult, find_config
from bodyloop.masks import Masks
from bodyloop.models.build import build_network
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.models.registry import find_card
from bodyloop.people import People
from bodyloop.pose.estimator import PoseModel
from bodyloop.roles import Detector, Encoded, MaskResult, PoseEstimator, Prompt, Segmenter
from bodyloop.skeletons import Skeleton

LONGEST = 640
PHOTO = Path(__file__).parents[1] / "src/bodyloop/assets/photos/street_610.jpg"
FIRST = 3  # people that the first pass finds
UPRIGHT = np.array(  # x and y of COCO's keypoints in the box
    [
        [0.5, 0.08], [0.55, 0.06], [0.45, 0.06], [0.6, 0.07], [0.4, 0.07], [0.75, 0.22], [0.25, 0.22], [0.8, 0.37],
        [0.2, 0.37], [0.8, 0.5], [0.2, 0.5], [0.65, 0.5], [0.35, 0.5], [0.65, 0.72], [0.35, 0.72], [0.65, 0.95],
        [0.35, 0.95],
    ]
)  # fmt: skip


def photo() -> Image:
    pixels = read(PHOTO).pixels
    scale = LONGEST / max(pixels.shape[:2])
    return Image(cv2.resize(pixels, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


class Known:
    """The people of the photo: boxes (N, 4) beside each other that overlap by a fifth, and their masks."""

    def __init__(self, image: Image, count: int) -> None:
        w, h = image.size
        step = w / (count + 0.25)
        left = np.arange(count) * step
        self.boxes = np.stack([left, left * 0 + 0.2 * h, left + 1.2 * step, left * 0 + 0.95 * h], 1).astype(
            np.float32
        )
        bitmaps = np.zeros((count, h, w), np.uint8)
        for bits, (x1, y1, x2, y2) in zip(bitmaps, self.boxes.astype(int).tolist(), strict=True):
            middle, axes = ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 3, (y2 - y1) // 2)
            cv2.ellipse(bits, middle, axes, 0, 0, 360, 1, -1)
        self.masks = Masks.from_bitmaps(bitmaps)

    def nearest(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
        """(n,) who each point (n, 2) belongs to."""
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        return np.abs(points[:, None, 0] - centres[None, :, 0]).argmin(axis=1)


class Detects:
    """Runs the detector, then gives the known people of this pass."""

    def __init__(self, inner: Detector, known: Known) -> None:
        self.inner, self.known, self.calls = inner, known, 0

    def detect(self, images: Sequence[Image]) -> list[People]:
        self.inner.detect(images)
        n = len(self.known.boxes)
        who = np.arange(n)[:FIRST] if self.calls % 2 == 0 else np.arange(n)[FIRST:]
        self.calls += 1
        scores = np.full(len(who), 0.9, np.float32)
        boxes, masks = self.known.boxes[who], self.known.masks[who]
        return [People(i.size, i.source, boxes=boxes, scores=scores, masks=masks) for i in images]


class Poses:
    """Runs the pose model, then puts its keypoints where people have them."""

    def __init__(self, inner: PoseEstimator, skeleton: Skeleton) -> None:
        self.inner, self.skeleton = inner, skeleton
        self.shares = np.resize(UPRIGHT, (len(skeleton), 2))
        self.people = 0

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        self.people += sum(len(p) for p in people)
        out = []
        for p in self.inner.estimate(images, people):
            assert p.boxes is not None
            points = p.boxes[:, None, :2] + self.shares * (p.boxes[:, None, 2:] - p.boxes[:, None, :2])
            sure = np.full(points.shape[:2], 0.9, np.float32)
            out.append(
                p.replace(keypoints=points, map_scores=sure, quality=None, visibility=sure, presence=sure)
            )
        return out


class Segments:
    """Runs the segmenter, then gives the known masks; counts."""

    def __init__(self, inner: Segmenter, known: Known) -> None:
        self.inner, self.known = inner, known
        self.encoded = self.prompts = 0

    def encode(self, images: Sequence[Image]) -> Sequence[Encoded]:
        self.encoded += len(images)
        return self.inner.encode(images)

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        self.prompts += len(prompts)
        answer = self.inner.segment(encoded, prompts)
        who = self.known.nearest(np.stack([p.points.mean(axis=0) for p in prompts]))
        return MaskResult(self.known.masks[who], answer.scores)


# ------------------------------------------------------------------ networks


def with_random_weights(name: str, folder: Path) -> str:
    """A file with the architecture of a model and starting values for weights; of a file itself."""
    card = find_card(name)
    path = folder / f"{card.name}.safetensors"
    state = {k: v.numpy() for k, v in build_network(card).state_dict().items()}
    save_safetensors(path, state, card)
    return str(path)


def roles(names: Sequence[str], options: argparse.Namespace) -> tuple[Detector, PoseModel, Segmenter]:
    how = {"device": options.device, "dtype": options.precision}
    with tempfile.TemporaryDirectory() as folder:
        if options.random_weights:
            torch.manual_seed(0)
            names = [with_random_weights(n, Path(folder)) for n in names]
        pose = load_pose(names[1], detector=None, **how)
        return load_detector(names[0], **how), pose, load_segmenter(names[2], **how)


# ------------------------------------------------------------------ the measurement


def measure(name: str, options: argparse.Namespace) -> None:
    given = (options.detector, options.pose, options.segmenter)
    names = [g or n for g, n in zip(given, PIPELINES[name], strict=True)]
    try:
        detector, pose, segmenter = roles(names, options)
    except BodyloopError as e:
        hint = "" if options.random_weights else "; --random-weights measures its architectures"
        print(f"\n{name}: skipped, {textwrap.shorten(str(e), 200)}{hint}")
        return
    image = photo()
    known = Known(image, options.people)
    config = find_config(name)
    pose = pose.with_options(maps=True) if config.prompt_maps else pose
    played = Detects(detector, known), Poses(pose, pose.skeleton), Segments(segmenter, known)
    clock = time.process_time if options.cpu_time else time.perf_counter
    loop = BodyLoop(*played, config, clock=clock)
    runs: list[tuple[LoopResult, int, int, int]] = []
    for _ in range(options.repeat + 1):
        before = played[2].encoded, played[1].people, played[2].prompts
        result = loop.run(image)
        after = played[2].encoded, played[1].people, played[2].prompts
        if len(result.passes) != 2 or len(result.people) != options.people:
            raise SystemExit(f"{name}: kept {len(result.people)} of {options.people} people: name fewer")
        runs.append((result, *(b - a for a, b in zip(before, after, strict=True))))
    show(name, names, min(runs[1:], key=lambda r: spent(r[0])["loop"]))


def spent(result: LoopResult) -> dict[str, float]:
    return {
        role: sum(p.seconds[role] for p in result.passes) for role in ("detect", "pose", "segment", "loop")
    }


def show(name: str, names: Sequence[str], run: tuple[LoopResult, int, int, int]) -> None:
    result, encoded, estimated, prompts = run
    ms = {k: 1e3 * v for k, v in spent(result).items()}
    work = {"detect": len(result.passes), "pose": estimated, "segment": prompts}
    print(f"\n{name}, {len(result.people)} people, {len(result.passes)} passes")
    print("| role | model | ms a photo | times | ms each |\n|---|---|---|---|---|")
    for (role, count), model in zip(work.items(), names, strict=True):
        unit = {"detect": "looks", "pose": "people", "segment": "masks"}[role]
        print(f"| {role} | {model} | {ms[role]:.1f} | {count} {unit} | {ms[role] / count:.1f} |")
    total = sum(ms[role] for role in work)
    print(f"| the loop itself | | {ms['loop']:.1f} | | {ms['loop'] / len(result.people):.1f} a person |")
    print(
        f"the loop adds {100 * ms['loop'] / total:.2f} % to the roles; the photo was encoded {encoded} time(s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipelines", nargs="*", default=["bmp-n", "bmp-v2"], help="names, such as bmp-v2")
    parser.add_argument(
        "--random-weights", action="store_true", help="the architectures, without weight files"
    )
    for role in ("detector", "pose", "segmenter"):
        parser.add_argument(f"--{role}", help="a name or file instead of the pipeline's")
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of this process, not wall time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine()
    weights = "random weights" if options.random_weights else "weights as released"
    print(f"{where}, {options.precision}, torch {torch.__version__}, {options.threads} thread(s), {weights}")
    for name in options.pipelines:
        measure(name, options)


if __name__ == "__main__":
    main()
