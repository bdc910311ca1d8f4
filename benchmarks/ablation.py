"""Which parts of pmpose-n's recipe earn their place? Short runs with one part left out, compared on dev.

    python benchmarks/ablation.py run --out runs/ablation              # all variants and seeds, one after the other
    python benchmarks/ablation.py run --only mse:1 --out runs/ablation
    python benchmarks/ablation.py table --out runs/ablation
    python benchmarks/ablation.py run --out runs/longer --samples 300000 device=cuda batch=256 workers=12

Every run sees the same number of samples (30,000, if nothing is said). A run that was stopped goes on where it was;
one that is finished is left alone. Of each run the results on dev are kept (true boxes, no flip test): whole photos
without and with the labelled masks, and the photos cut by the CropCOCO procedure. The table compares them
with the full recipe by paired bootstrap over images, seeds averaged within each resample.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from bodyloop.data.cropcoco import build
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import predict_boxed, results_of
from bodyloop.eval.evidence import Evidence
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.photos import PhotoSet
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
    state = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    task.model.load_state_dict(state["average"])
    model = task.pose_model(task.model)
    whole = dev()
    for name, photos in (("dev", whole), ("dev-masks", whole), ("dev-cropped", cropped(whole))):
        found = predict_boxed(model, photos, flip=False, masks=name == "dev-masks")
        part = folder / f"{name}.part"
        part.write_text(json.dumps(results_of(found, "presence")), encoding="utf-8")
        part.replace(folder / f"{name}.json")


def dev() -> PhotoSet:
    """The photos that judge."""
    return PhotoSet.open(Path(os.environ["BODYLOOP_DATA"]) / "coco" / "dev.json")


def cropped(photos: PhotoSet) -> PhotoSet:
    """Their cropped twin."""
    return photos.cropped(build(photos.document, seed=0))


def table(out: Path) -> None:
    """Print AP of every variant and its difference from the full recipe, as Markdown."""
    whole = dev()
    truth = dict(zip(SETS, (whole.document, whole.document, cropped(whole).document), strict=True))
    print("| variant | " + " | ".join(f"AP {s} | difference" for s in SETS) + " | seeds |")
    print("|" + "---|" * (2 * len(SETS) + 2))
    samples: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
    for name in VARIANTS:
        cells, seeds = [f"{name}: {TELLS[name]}"], 0
        for s in SETS:
            found = [p for seed in SEEDS if (p := out / f"{name}-{seed}" / f"{s}.json").is_file()]
            seeds = len(found)
            if not found:
                cells += ["", ""]
                continue
            samples[name, s] = resampled([evaluate_keypoints(truth[s], p).evidence for p in found])
            value, drawn = samples[name, s]
            cells.append(f"{value:.4f}")
            base = samples.get(("full", s))
            if base is None or name == "full":
                cells.append("")
            else:
                cells.append(str(boot.difference(value, base[0], drawn, base[1])))
        print("| " + " | ".join(cells) + f" | {seeds} |")


def resampled(runs: Sequence[Evidence]) -> tuple[float, np.ndarray]:
    """Mean AP over runs, as it is and on every resample of the images (the same resamples for every variant)."""
    weights = boot.draw(len(runs[0].truth.image_ids), np.random.default_rng(0))
    drawn = np.mean([boot.ap_samples(e, weights) for e in runs], axis=0)
    return float(np.mean([e.curves.mean("precision") for e in runs])), drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of all recipes")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="that each run sees")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT:SEED")
    a = parser.parse_intermixed_args()
    if a.what == "run":
        run(a.out, a.only, a.samples, a.changes)
    else:
        table(a.out)


if __name__ == "__main__":
    main()
