"""``bodyloop export``: a model as one ONNX file, in float or int8; a SAM as a folder of two."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bodyloop.cli._common import AsJson, CardName, example, progress, put_json, say
from bodyloop.errors import FileError, InputError, MissingDependency, ModelError

if TYPE_CHECKING:
    from torch import nn

    from bodyloop.models.cards import Card

NAME = "export"
EXAMPLE = example(
    "bodyloop export pmpose-b pmpose-b.onnx",
    "bodyloop export pmpose-n small.onnx --int8 --calibrate photos/",
    "bodyloop export runs/pmpose-n mine.onnx",
    "bodyloop export sam2.1-tiny sam/",
)
CROPS = 256  # people that are looked at to choose the int8 scales; more changes little


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name, a weight file, an ONNX file or a training run's folder."
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.onnx", help="The new file; of a SAM the folder of its two files.")
    ],
    card: CardName = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Convolutions in bytes: faster and smaller, a little less exact.")
    ] = False,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate", metavar="PHOTOS", help="Photos of people to choose the scales on (int8)."
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half/--full", help="Store large weights with 16 bits (half the size).")
    ] = True,
    nms_inside: Annotated[
        bool,
        typer.Option(
            "--nms-inside", help="Detectors: the file itself drops double boxes, by the card's thresholds."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as one ONNX file that needs no torch and carries its card.

    With --int8 the report says how far maps, keypoints and presence moved on the photos.
    """
    folder_of_two = target.suffix.lower() != ".onnx" and _is_sam(model, card)
    if target.suffix.lower() != ".onnx" and not folder_of_two:
        raise typer.BadParameter(f"{target}: the new file's name must end in .onnx")
    if int8 and folder_of_two:
        raise typer.BadParameter("--int8 is for models of one file")
    if int8 and not calibrate:
        raise typer.BadParameter("--int8 needs --calibrate PHOTOS: photos of people like those to come")
    if target.exists() and not overwrite:
        raise FileError(f"{target} is there already; allow --overwrite, or choose another name")
    if not target.parent.is_dir():
        raise FileError(f"cannot write {target}: there is no folder {target.parent}")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / target.name if int8 else target
        source = _as_onnx(model, card, plain, half=half, taken=int8, nms_inside=nms_inside)
        report = _quantized(source, target, calibrate or []) if int8 else None
    written = sorted(target.iterdir()) if target.is_dir() else [target]
    size = sum(f.stat().st_size for f in written)
    shown: dict[str, Any] = {"file": str(target), "bytes": size, "int8": int8}
    if as_json:
        put_json(shown | ({} if report is None else {"report": _numbers(report)}))
    else:
        say(str(report) if report is not None else f"{target}: {size / 1e6:.1f} MB")


def _as_onnx(
    model: str, card: str | None, target: Path, *, half: bool, taken: bool, nms_inside: bool = False
) -> Path:
    """The model as an ONNX file: exported to ``target``, or what it is already, if that is ``taken``."""
    from bodyloop.models.checkpoints import is_sam

    found, network = _network(model, card)
    if isinstance(network, Path):
        if not taken:
            raise ModelError(f"{network} is an ONNX file already; copy it, or ask for --int8")
        return network
    if nms_inside and found.kind != "detector":
        raise InputError(f"--nms-inside is for detectors, and {found.name} is a {found.kind} model")
    if is_sam(found):
        if target.suffix.lower() == ".onnx":
            raise InputError(
                f"{found.name} becomes a folder of two files: name one that does not end in .onnx"
            )
        from bodyloop.segment.export import export_sam

        export_sam(network, found, target, half=half)
        return target
    if found.kind == "detector":
        from bodyloop.detect.export import Suppression, export_detector

        where: Suppression = "inside" if nms_inside else "outside"
        export_detector(network, found, target, half=half, suppression=where)
    elif found.segmentation is not None and found.segmentation.method == "crops":
        from bodyloop.segment.crops_export import export_crops

        export_crops(network, found, target, half=half)
    else:
        from bodyloop.models.export import export_onnx

        export_onnx(network, found, target, half=half)
    return target


def _is_sam(model: str, card: str | None) -> bool:
    from bodyloop.models.checkpoints import is_sam
    from bodyloop.models.registry import find_card

    own = Path(model) / "card.toml"  # of a training run
    return is_sam(find_card(card or (own if own.is_file() else model)))


def _network(model: str, card: str | None) -> tuple[Card, nn.Module | Path]:
    """A model's card and its torch network with weights, or its ONNX file."""
    from bodyloop.models.registry import resolve

    if Path(model).is_dir():
        return _of_run(Path(model), card)
    found, path = resolve(model, card)
    if path.suffix.lower() == ".onnx":
        return found, path
    from bodyloop.models.build import load_network

    return found, load_network(found, path)


def _of_run(run: Path, card: str | None) -> tuple[Card, nn.Module]:
    from bodyloop.models.build import load_network
    from bodyloop.models.registry import find_card

    try:
        from bodyloop.train.release import CARD, release, unproven
    except ImportError as e:
        raise MissingDependency(f"training runs need {e.name}; pip install 'bodyloop[export]'") from e
    own = run / CARD
    if card is None and not own.is_file():
        raise InputError(f"{run} is a training run without {CARD}; say what was trained: --card NAME")
    found = find_card(own) if card is None else unproven(find_card(card))
    best = (run / "best.pt").is_file()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "weights.safetensors"
        weights, _ = release(run, found, part, which="best" if best else "last")
        return found, load_network(found, weights)


def _quantized(source: Path, target: Path, photos: list[str]) -> Any:
    from bodyloop.models.quantize import quantize

    crops = _crops(source, photos)
    half = len(crops) // 2
    # the report is about people that the scales were not chosen on, where there are enough
    return (
        quantize(source, target, crops[:half], compared=crops[half:])
        if half >= 8
        else quantize(source, target, crops)
    )


def _crops(source: Path, photos: list[str]) -> Any:
    """(N, h, w, 3) uint8 windows of the people that the embedded detector finds in the photos."""
    import numpy as np

    from bodyloop.api import load_detector
    from bodyloop.cli._photos import find_photos
    from bodyloop.geometry import Crop
    from bodyloop.images import read
    from bodyloop.models.registry import find_card
    from bodyloop.pose.crops import warp_crops

    found, problems = find_photos(photos)
    if problems:
        raise InputError("; ".join(why for _, why in problems))
    p = find_card(source).preprocess
    detector = load_detector()
    parts: list[Any] = []
    with progress("calibrate") as tell:
        for i, photo in enumerate(found):
            image = read(photo.path)
            (people,) = detector.detect([image])
            if people.boxes is not None and len(people):
                crop = Crop.from_boxes(
                    people.boxes, size=p.size, map_size=p.map_size or (48, 64), padding=p.padding
                )
                parts.append(warp_crops(image.pixels, crop))
            tell(i + 1, len(found))
            if sum(len(x) for x in parts) >= CROPS:
                break
    if not parts:
        raise InputError("--calibrate: nobody was found in these photos; give photos of people")
    return np.concatenate(parts)[:CROPS]


def _numbers(report: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(report).items()}
