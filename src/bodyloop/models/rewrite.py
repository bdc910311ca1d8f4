"""The same weights with another card: what calibration writes.

An ONNX file has its temperatures inside, under their own names, and its card in the metadata; both are replaced
together. Torch weights are read with their card, so there only the card changes. Nothing else of a file is
touched: int8 and half precision stay what they are, and no torch or onnx is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from bodyloop.engines import _edit
from bodyloop.engines._graph import graph_names
from bodyloop.errors import FileError, ModelError
from bodyloop.models._safetensors import read_metadata, replace_metadata
from bodyloop.models.cards import Card, WeightsFile
from bodyloop.models.export import write_atomically

SUFFIXES = (".onnx", ".safetensors")
_SIDES = ("presence", "visibility", "quality")


def newton_steps(path: str | Path) -> int | None:
    """How many Newton steps the sparsemax of an exported file takes; None for torch weights, which take what they
    need, and for files without one.

    Raises:
        FileError: the file cannot be read. ModelError: it is no ONNX model.
    """
    p = Path(path)
    return _edit.steps(_read(p)) if p.suffix.lower() == ".onnx" else None


def rewrite(
    source: str | Path, target: str | Path, card: Card, *, steps: int | None = None, overwrite: bool = False
) -> Card:
    """Write ``source`` anew with the temperatures of ``card`` and the card itself; it appears when it is complete.

    Args:
        source: `.onnx` as exported by bodyloop, or `.safetensors`; ``target`` of the same kind.
        card: what stands in the new file, but for the file's name.
        steps: Newton steps that the sparsemax of an ONNX file takes at least.
        overwrite: replace an existing target; never the source.

    Returns: the card as it stands in the file.

    Raises:
        FileError: as `check_target`, or a file cannot be read or written.
        ModelError: the ONNX file has no temperatures to set.
    """
    old, new = Path(source), Path(target)
    check_target(old, new, overwrite=overwrite)
    kind: Literal["onnx", "safetensors"] = "onnx" if new.suffix.lower() == ".onnx" else "safetensors"
    own = replace(card, weights=WeightsFile(file=new.name, format=kind))
    if kind == "safetensors":
        data = replace_metadata(old, {**read_metadata(old), **own.to_metadata()})
    else:
        data = _edited(old, own, steps)
    write_atomically(new, data)
    return own


def check_target(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Refuse what `rewrite` would refuse, before anything is computed.

    Raises:
        FileError: another kind of file, the source itself, an existing file without ``overwrite``, no such folder,
            or a card beside the target that would be read instead of the one inside.
    """
    if source.suffix.lower() not in SUFFIXES:
        raise FileError(
            f"{source}: calibrated are .onnx and .safetensors files; make one with 'bodyloop convert {source} "
            f"{source.stem}.safetensors'"
        )
    if target.suffix.lower() != source.suffix.lower():
        raise FileError(
            f"{target}: {source.name} becomes a {source.suffix} file; give it a name that ends so"
        )
    if target.exists() and target.samefile(source):
        raise FileError(f"{target} is the model itself, which stays as it is; choose another name")
    if target.exists() and not overwrite:
        raise FileError(f"{target} is there already; allow overwriting it, or choose another name")
    if not target.parent.is_dir():
        raise FileError(f"cannot write {target}: there is no folder {target.parent}")
    beside = target.with_suffix(".toml")
    if beside.is_file():
        raise FileError(
            f"{beside} would be read instead of the card inside {target.name}; choose another name, or move it"
        )


def _edited(source: Path, card: Card, steps: int | None) -> bytes:
    model = _read(source)
    if card.decode is None:
        raise ModelError(f"card {card.name!r} is of a {card.kind}, not of a pose model")
    outputs = graph_names(model)[1]
    scalars = {f"temperature.{n}": getattr(card.decode, f"{n}_temperature") for n in _SIDES if n in outputs}
    scalars["temperature.maps"] = card.decode.temperature
    more = 0 if steps is None else max(0, steps - (_edit.steps(model) or steps))
    try:
        return _edit.edited(model, scalars, card.to_metadata(), more_steps=more)
    except ModelError as e:
        raise ModelError(f"{source}: {e}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise FileError(f"cannot read {path}: {e.strerror or e}") from e
