"""Which parts of pmpose-n's recipe earn their place? Short runs with one part left out, compared on dev.

    python benchmarks/ablation.py run --out runs/ablation              # all variants and seeds, one after the other
    python benchmarks/ablation.py run --only mse:1 --out runs/ablation
    bodyloop data crowds --data data/coco --out crowds
    python benchmarks/ablation.py judge --out runs/ablation --crowds crowds    # what is trained, on people who overlap
    python benchmarks/ablation.py table --out runs/ablation --crowds crowds
    python benchmarks/ablation.py run --out runs/longer --samples 300000 device=cuda batch=256 workers=12

Every run sees the same number of samples (30,000, if nothing is said). A run that was stopped goes on where it was;
one that is finished is left alone. Of each run the results on dev are kept (true boxes, no flip test): whole photos
without and with the labelled masks, and the photos cut by the CropCOCO procedure. ``judge`` adds the same of synthetic
crowds. The table compares them with the full recipe by paired bootstrap over photos, seeds averaged within
each resample.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bodyloop.data.cropcoco import build
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import predict_boxed, results_of
from bodyloop.eval.extended import ExtendedReport, evaluate_extended
from bodyloop.eval.keypoints import KeypointReport, evaluate_keypoints
from bodyloop.eval.photos import PhotoSet
from bodyloop.eval.presence import auroc, labels_of, per_keypoint
from bodyloop.train.config import PoseConfig, config_from
from bodyloop.train.loop import fit
from bodyloop.train.pose import PoseTask

SAMPLES = 30_000
SEEDS = (1, 2)
FULL = PoseConfig(
    sources=("coco:4.5", "coco_more:3", "lsp:1", "lsp_more:1.5"),
    knows_hidden=("coco", "coco_more"),
    start="imagenet",
    fixed_stages=2,
    train_depthwise=False,
    fixed_norms=True,
    batch=32,
    steps=SAMPLES // 32,
    lr=1.5e-3,
    backbone_lr=0.5,
    warmup=100,
    ema=0.99,
    evaluate_every=SAMPLES,
    checkpoint_every=100,
    min_keypoints=5,
    min_height=40,
    mask=0.5,
    half_body=0.2,
    scale=0.35,
    rotate=40,
    cut=0.35,
    patches=0.1,
    photometric=0.3,
    paste=0.3,
)
VARIANTS: dict[str, PoseConfig] = {
    "full": FULL,
    "mse": replace(FULL, loss="mse", mse=1000),
    "no-crop": replace(FULL, cut=0, patches=0),
    "no-paste": replace(FULL, paste=0),
    "no-mask": replace(FULL, mask=0),
    "less-data": replace(FULL, sources=("coco:4.5", "lsp:1"), knows_hidden=("coco",)),
    "no-imagenet": replace(FULL, start="none", fixed_stages=0, train_depthwise=True, fixed_norms=False),
}
TELLS = {
    "full": "the whole recipe",
    "mse": "heatmaps with squared error, DARK decoding",
    "no-crop": "no cut people, no black patches",
    "no-paste": "no pasted people",
    "no-mask": "never a mask seen",
    "less-data": "without coco_more and lsp_more",
    "no-imagenet": "from random weights, all of them trained",
}
SETS = ("dev", "dev-masks", "dev-cropped")
CROWDS = ("crowds", "crowds-masks")


def configured(name: str, seed: int, samples: int, changes: Sequence[str]) -> PoseConfig:
    """A variant's recipe for ``samples`` samples, with ``key=value`` pairs on top."""
    pairs = (c.partition("=") for c in changes)
    table = replace(VARIANTS[name], seed=seed).to_dict() | {k: yaml.safe_load(v) for k, _, v in pairs}
    config = config_from(table, name)
    assert isinstance(config, PoseConfig)
    return replace(config, steps=samples // config.batch)


def run(out: Path, only: Sequence[str], samples: int, changes: Sequence[str]) -> None:
    """Train what is not trained yet and keep its results."""
    wanted = [f"{name}:{seed}" for seed in SEEDS for name in VARIANTS]
    for job in only or wanted:
        name, _, seed = job.partition(":")
        folder = out / f"{name}-{seed}"
        if all((folder / f"{s}.json").is_file() for s in SETS):
            continue
        task = PoseTask(configured(name, int(seed), samples, changes))
        fit(task, task.config, folder, tell=lambda row, job=job: print(job, json.dumps(row), flush=True))
        judge(task, folder)


def judge(task: PoseTask, folder: Path) -> None:
    """Write the results of the averaged weights on the three sets."""
    whole = dev()
    predict(task, folder, {"dev": whole, "dev-masks": whole, "dev-cropped": cropped(whole)})


def judge_crowds(out: Path, crowds: Path) -> None:
    """Write the results of every finished run on a set of crowds."""
    photos = PhotoSet.open(crowds / "dev.json")
    for folder in sorted(p.parent for p in out.glob(f"*/{SETS[-1]}.json")):
        if not (folder / f"{CROWDS[-1]}.json").is_file():
            table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = config_from(table, str(folder))
            assert isinstance(config, PoseConfig)
            predict(PoseTask(config), folder, dict.fromkeys(CROWDS, photos))


def predict(task: PoseTask, folder: Path, sets: Mapping[str, PhotoSet]) -> None:
    """Write the results of the averaged weights on some sets; those named so with the labelled masks."""
    state = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    task.model.load_state_dict(state["average"])
    model = task.pose_model(task.model)
    for name, photos in sets.items():
        found = predict_boxed(model, photos, flip=False, masks=name.endswith("-masks"))
        part = folder / f"{name}.part"
        part.write_text(json.dumps(results_of(found, "presence")), encoding="utf-8")
        part.replace(folder / f"{name}.json")


def dev() -> PhotoSet:
    """The photos that judge."""
    return PhotoSet.open(Path(os.environ["BODYLOOP_DATA"]) / "coco" / "dev.json")


def cropped(photos: PhotoSet) -> PhotoSet:
    """Their cropped twin."""
    return photos.cropped(build(photos.document, seed=0))


Numbers = tuple[float, np.ndarray]  # a figure, and what it is on every resample of the photos


def table(out: Path, crowds: Path | None) -> None:
    """Print the figures of every variant and their differences from the full recipe, as Markdown."""
    whole = dev()
    twin = cropped(whole)
    measures: dict[str, tuple[str, Callable[[Path], Numbers]]] = {
        "AP": ("dev", lambda p: ap(evaluate_keypoints(whole.document, p))),
        "AP with masks": ("dev-masks", lambda p: ap(evaluate_keypoints(whole.document, p))),
        "Ex-AP, cropped": ("dev-cropped", lambda p: ap(evaluate_extended(twin.document, p))),
        "presence AUROC, cropped": ("dev-cropped", lambda p: presence(twin.document, p)),
    }
    if crowds is not None:
        many = PhotoSet.open(crowds / "dev.json").document
        measures |= {
            "AP, crowds": ("crowds", lambda p: ap(evaluate_keypoints(many, p))),
            "AP, crowds with masks": ("crowds-masks", lambda p: ap(evaluate_keypoints(many, p))),
        }
    print("| variant | " + " | ".join(measures) + " | seeds |")
    print("|" + "---|" * (len(measures) + 2))
    full: dict[str, Numbers] = {}
    for name in VARIANTS:
        cells, seeds = [f"{name}: {TELLS[name]}"], 0
        for measure, (where, judged) in measures.items():
            found = [p for seed in SEEDS if (p := out / f"{name}-{seed}" / f"{where}.json").is_file()]
            seeds = len(found)
            if not found:
                cells.append("")
                continue
            value, drawn = (np.mean(x, axis=0) for x in zip(*(judged(p) for p in found), strict=True))
            full.setdefault(measure, (float(value), drawn))  # the first variant
            base = full[measure]
            less = boot.difference(float(value), base[0], drawn, base[1])
            cells.append(f"{value:.3f}" if name == "full" else f"{value:.3f}, {told(less)}")
        print("| " + " | ".join(cells) + f" | {seeds} |")


def told(d: boot.Difference) -> str:
    """A difference with its interval; bold if that leaves out 0."""
    text = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
    return f"**{text}**" if d.low > 0 or d.high < 0 else text


def ap(report: KeypointReport | ExtendedReport) -> Numbers:
    """AP of a report, on the same resamples of its images for every variant."""
    e = report.evidence
    weights = boot.draw(len(e.truth.image_ids), np.random.default_rng(0))
    return report.AP, boot.ap_samples(e, weights)


def presence(document: Mapping[str, Any], results: Path) -> Numbers:
    """AUROC of presence over the labelled keypoints of those who are labelled."""
    p = {r["annotation_id"]: r["presence"] for r in json.loads(results.read_text(encoding="utf-8"))}
    images = {i["id"]: n for n, i in enumerate(document["images"])}
    people = [a for a in document["annotations"] if a["id"] in p]
    values = np.array([p[a["id"]] for a in people])
    flags = np.array([a["keypoints"][2::3] for a in people])
    used, there = labels_of(flags, "presence")
    image = per_keypoint([images[a["image_id"]] for a in people], flags.shape)
    weights = boot.draw(len(images), np.random.default_rng(0))
    at = values[used], there[used], image[used]
    return auroc(*at[:2]) or float("nan"), boot.auroc_samples(*at, weights)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "judge", "table"))
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of all recipes")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="that each run sees")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--crowds", type=Path, help="folder of `bodyloop data crowds`")
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT:SEED")
    a = parser.parse_intermixed_args()
    if a.what == "run":
        run(a.out, a.only, a.samples, a.changes)
    elif a.what == "judge" and a.crowds is not None:
        judge_crowds(a.out, a.crowds)
    elif a.what == "judge":
        parser.error("judge needs --crowds")
    else:
        table(a.out, a.crowds)


if __name__ == "__main__":
    main()
