"""``bodyloop doctor``: what is installed, what it can use, and what is broken."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from bodyloop.cli._common import AsJson, example, put_json, say

NAME = "doctor"
EXAMPLE = example("bodyloop doctor", "bodyloop doctor --json")

# distribution -> module; what the base install needs, and what the extras add
NEEDED = {
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "onnxruntime": "onnxruntime",
    "huggingface_hub": "huggingface_hub",
    "safetensors": "safetensors",
    "typer": "typer",
}
OPTIONAL = {"torch": "torch", "onnx": "onnx", "onnxscript": "onnxscript", "supervision": "supervision"}
# distributions that write into the same folder; the first is the one to keep where nothing else is asked for
SAME_FOLDER = (
    ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    (
        "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm",
        "onnxruntime-migraphx", "onnxruntime-training", "ort-nightly", "ort-nightly-gpu",
    ),
    ("pillow", "pillow-simd"),
)  # fmt: skip
EMBEDDED = ("pmpose-n", "rtmdet-n", "rtmdet-ins-n", "pose2seg-n")


@dataclass
class Findings:
    """What was found.

    Attributes:
        facts: title -> name -> value.
        problems: what is broken, each with what to do.
        hints: what works and could be better.
    """

    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def command(as_json: AsJson = False) -> None:
    """Look at versions, devices, caches and models, and say what is broken and how to mend it.

    The exit code is 0 if all is well and 1 if something is broken.
    """
    found = examine()
    if as_json:
        put_json({**found.facts, "problems": found.problems, "hints": found.hints})
    else:
        _show(found)
    if found.problems:
        raise typer.Exit(1)


def examine() -> Findings:
    """Look at everything."""
    found = Findings()
    found.facts["versions"] = {
        "bodyloop": importlib.import_module("bodyloop").__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
    }
    _packages(found)
    _devices(found)
    _caches(found)
    _models(found)
    found.problems += [mend(names) for names in overlapping(installed())]
    return found


def installed(path: Sequence[str] | None = None) -> dict[str, str]:
    """Version of every installed distribution by its normalised name.

    Args:
        path: folders to look in; those of this Python by default.
    """
    there: Iterable[metadata.Distribution]
    there = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    versions: dict[str, str] = {}
    for d in there:
        name = d.metadata["Name"] if d.metadata else None
        if name:
            versions.setdefault(_normal(name), d.version or "?")
    return versions


def overlapping(versions: dict[str, str]) -> list[list[str]]:
    """Groups of installed distributions that overwrite each other's files."""
    groups = [[n for n in group if _normal(n) in versions] for group in SAME_FOLDER]
    return [g for g in groups if len(g) > 1]


def mend(names: Sequence[str]) -> str:
    """What to do about such a group; the most capable onnxruntime is kept, else the first."""
    keep = next((n for n in names if n.startswith("onnxruntime-")), names[0])
    return (
        f"{' and '.join(names)} are both installed and overwrite each other's files; "
        f"pip uninstall -y {' '.join(names)} && pip install {keep}"
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages(found: Findings) -> None:
    versions = installed()
    alternatives = {g[0]: g for g in SAME_FOLDER}
    shown: dict[str, str] = {}
    for distribution, module in {**NEEDED, **OPTIONAL}.items():
        names = [n for n in alternatives.get(distribution, (distribution,)) if _normal(n) in versions]
        try:
            loaded = importlib.import_module(module)
        except ImportError as e:
            if distribution in NEEDED:
                shown[distribution] = "broken" if names else "missing"
                found.problems.append(
                    f"{module} cannot be imported ({e}); pip install --force-reinstall {distribution}"
                )
            elif names:
                shown[distribution] = "broken"
                found.problems.append(f"{module} is installed and cannot be imported ({e}); install it again")
            else:
                shown[distribution] = "not installed"
            continue
        own = str(getattr(loaded, "__version__", "?"))
        shown[distribution] = own if not names else f"{versions[_normal(names[0])]}"
        if names and names[0] != distribution:
            shown[distribution] += f" ({', '.join(names)})"
    found.facts["packages"] = shown


def _devices(found: Findings) -> None:
    facts = {"cpu": f"{os.cpu_count()} logical cores, {platform.machine()}"}
    try:
        import onnxruntime

        facts["onnxruntime"] = ", ".join(onnxruntime.get_available_providers())
    except ImportError:
        facts["onnxruntime"] = "-"
    except AttributeError:
        facts["onnxruntime"] = "damaged"
        found.problems.append(
            "onnxruntime is damaged (two distributions wrote into its folder); "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
        )
    try:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            facts["torch"] = f"cuda: {', '.join(names)}"
            if "CUDAExecutionProvider" not in facts["onnxruntime"]:
                found.hints.append(
                    "there is a GPU that ONNX files do not use; "
                    "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
                )
        elif torch.backends.mps.is_available():
            facts["torch"] = "mps"
        else:
            facts["torch"] = "cpu only"
    except ImportError:
        facts["torch"] = "not installed (only the models of other packages need it)"
    found.facts["devices"] = facts


def _caches(found: Findings) -> None:
    facts: dict[str, str] = {}
    try:
        from huggingface_hub import constants

        cache = Path(constants.HF_HUB_CACHE)
        facts["hub cache"] = f"{cache} ({_size(cache)})"
        facts["hub"] = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else constants.ENDPOINT
    except ImportError:
        facts["hub cache"] = "-"
    own = os.environ.get("BODYLOOP_MODELS")
    facts["BODYLOOP_MODELS"] = own or "not set"
    if own and not Path(own).expanduser().is_dir():
        found.problems.append(
            f"BODYLOOP_MODELS names {own}, and there is no such folder; make it, or unset it"
        )
    found.facts["caches"] = facts


def _size(folder: Path) -> str:
    from bodyloop.models.hub import human_size

    total, count = 0, 0
    for at, _, files in os.walk(folder):
        for name in files:
            path = Path(at, name)
            if not path.is_symlink():
                total += path.stat().st_size
                count += 1
    return f"{human_size(total)} in {count} files" if count else "empty"


def _models(found: Findings) -> None:
    """Whether the networks in the package run."""
    from bodyloop.errors import BodyloopError

    facts: dict[str, str] = {}
    for name in EMBEDDED:
        try:
            facts[name] = _try(name)
        except BodyloopError as e:
            facts[name] = "broken"
            found.problems.append(f"the embedded model {name} does not run: {e}; install bodyloop again")
        except ImportError as e:
            facts[name] = f"not tried ({e})"
    found.facts["models"] = facts


def _try(name: str) -> str:
    import time

    from bodyloop.engines.onnx import OnnxEngine
    from bodyloop.models.registry import resolve

    engine: Any = OnnxEngine(resolve(name)[1], threads=1)
    wanted = list(engine.outputs)
    engine.warm_up(wanted)
    begun = time.perf_counter()
    engine.warm_up(wanted)
    return f"runs, {1000 * (time.perf_counter() - begun):.0f} ms on one thread"


def _show(found: Findings) -> None:
    for title, facts in found.facts.items():
        say(title)
        wide = max((len(k) for k in facts), default=0)
        for key, value in facts.items():
            say(f"  {key:<{wide}}  {value}")
    for text in found.hints:
        say(f"\nhint: {text}")
    for text in found.problems:
        say(f"\nbroken: {text}")
    say("\nall is well" if not found.problems else f"\n{len(found.problems)} to mend")
