"""What `import bodyloop` costs, and that every public name is where it is said to be."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import bodyloop
from bodyloop import people, skeletons

HEAVY = (
    "torch",
    "onnxruntime",
    "cv2",
    "PIL",
    "scipy",
    "supervision",
    "huggingface_hub",
    "safetensors",
    "typer",
)
VOCABULARY = (
    "errors",
    "geometry",
    "skeletons",
    "images",
    "masks",
    "people",
    "roles",
    "maps",
    "interop",
    "storage",
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    return set(json.loads(run(f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))")))


def test_the_package_loads_next_to_nothing() -> None:
    loaded = loaded_by("import bodyloop; dir(bodyloop); bodyloop.__version__")
    assert not loaded & {*HEAVY, "numpy"}
    assert {m for m in loaded if m.startswith("bodyloop.")} == set()


@pytest.mark.parametrize("module", VOCABULARY)
def test_the_vocabulary_loads_nothing_heavy(module: str) -> None:
    assert not loaded_by(f"import bodyloop.{module}") & set(HEAVY)


def test_the_vocabulary_works_with_heavy_packages_blocked() -> None:
    blocked = f"import sys\nfor m in {HEAVY!r}: sys.modules[m] = None\n"
    use = (
        "import bodyloop as bl, numpy as np\n"
        "p = bl.People((9, 9), skeleton=bl.COCO, boxes=[[0, 0, 5, 5]], keypoints=np.zeros((1, 17, 2)),\n"
        "    masks=bl.Masks.from_any([[[1, 1, 6, 1, 6, 5]]], (9, 9)))\n"
        "p = bl.People.concat([p, p])\n"
        "print(len(p.to_coco(image_id=1)), bl.Image.from_array(np.zeros((4, 5, 3), np.uint8)).size)\n"
    )
    assert run(blocked + use).split() == ["2", "(5,", "4)"]


def test_the_vocabulary_knows_nothing_above_it() -> None:
    loaded = loaded_by("\n".join(f"import bodyloop.{m}" for m in VOCABULARY))
    own = {m.split(".")[1].lstrip("_") for m in loaded if m.startswith("bodyloop.")}
    assert own <= {*VOCABULARY, "mask", "rle"}


def test_public_names_are_the_ones_of_their_modules() -> None:
    assert bodyloop.People is people.People
    assert bodyloop.COCO is skeletons.COCO
    promised = "predict stream read draw load_pose load_detector People Image Masks"
    assert {*promised.split(), "Skeleton", "BodyloopError", "__version__"} <= set(bodyloop.__all__)
    assert set(bodyloop.__all__) <= set(dir(bodyloop))
    constants = {n for n in bodyloop.__all__ if n.isupper()} - {"SKELETONS"}
    assert {getattr(bodyloop, n).name for n in constants} == set(skeletons.SKELETONS)


@pytest.mark.parametrize("name", bodyloop.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(bodyloop, name) is not None


def test_no_public_name_is_hidden_by_a_module() -> None:
    # importing bodyloop.x would put the module in the place of the name
    assert [n for n in bodyloop.__all__ if importlib.util.find_spec(f"bodyloop.{n}")] == []


def test_typed_names_are_the_lazy_ones(tmp_path: Path) -> None:
    file = tmp_path / "names.py"
    file.write_text("import bodyloop\n" + "".join(f"print(bodyloop.{n})\n" for n in bodyloop.__all__))
    mypy = pytest.importorskip("mypy.api")
    out, errors, status = mypy.run(
        ["--config-file=", "--follow-imports=silent", f"--cache-dir={tmp_path}", str(file)]
    )
    assert status == 0, out + errors


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predcit'"):
        bodyloop.predcit  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(bodyloop, "load_everything")
    with pytest.raises(ImportError):
        from bodyloop import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_the_package_is_marked_as_typed() -> None:
    assert Path(bodyloop.__file__).with_name("py.typed").exists()
