"""Weight files: read in any format, compared strictly, written as safetensors with their card.

`read_checkpoint` opens `.pth`, `.pt` and `.safetensors` files by what they contain. `prepare` brings the
tensors to our names and to a card's network, and reports everything that does not fit by name in one error.
`load_into` fills a torch module. `convert` makes the self-sufficient file of `bodyloop convert`. The formats
themselves are read by `unpickle` and `_safetensors`; names are the business of `keymaps`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bodyloop.errors import ConfigError, FileError, ModelError
from bodyloop.models._safetensors import looks_like_safetensors, read_safetensors, write_safetensors
from bodyloop.models.cards import Card
from bodyloop.models.keymaps import (
    COUNTER,
    ERROR_BRANCH,
    Array,
    Signature,
    StateDict,
    canonical,
    count_parameters,
    fit_pos_embed,
    layout,
    recognise,
    strip_prefix,
)
from bodyloop.models.keymaps_rtmdet import canonical_rtmdet, classes_of, distinct, recognise_rtmdet
from bodyloop.models.keymaps_sam import canonical_sam, recognise_sam
from bodyloop.models.unpickle import PickledArray, Tensor, read_torch

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

SOURCE_KEYS = ("bodyloop.source", "bodyloop.source_sha256")
_STATE_KEYS = ("state_dict", "model", "model_state_dict", "model_state")
_SHOWN = 5  # names an error lists of each kind before it counts


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        path: where it lies.
        state: tensors under the file's own names (wrappers' prefixes removed), read-only.
        metadata: safetensors' metadata, or of a pickle the plain values under ``meta``.
        card: the card in the file, None if there is none.
    """

    path: Path
    state: StateDict
    metadata: Mapping[str, Any] = field(default_factory=dict)
    card: Card | None = None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Open a weight file of any format. Code in it is never run, and numbers are not read yet.

    Raises:
        FileError: it cannot be opened.
        ModelError: it holds no weights, or is damaged.
    """
    p = Path(path)
    try:
        with p.open("rb") as f:
            head = f.read(9)
    except OSError as e:
        raise FileError(f"cannot read the weights {p}: {e.strerror or e}") from e
    if looks_like_safetensors(head):
        state, metadata = read_safetensors(p)
        try:
            card = Card.from_metadata(metadata, str(p))
        except ConfigError as e:
            raise ModelError(f"the card inside is malformed: {e}") from None
        if not state:
            raise ModelError(f"{p}: the file holds no tensors")
        return Checkpoint(p, strip_prefix(state), metadata, card)
    if p.suffix == ".safetensors":
        raise ModelError(f"{p}: no safetensors file, or damaged (it begins with {head!r})")
    if p.suffix == ".onnx":
        raise ModelError(f"{p}: an ONNX file is used as it is and has no weights to read")
    tree = read_torch(p)
    state = _find_state(tree, p)
    limit = 4 * p.stat().st_size + 1_000_000
    if sum(v.nbytes for v in state.values()) > limit:
        raise ModelError(f"{p}: its tensors claim many times the size of the file")
    meta = plain(tree.get("meta")) if isinstance(tree, dict) else None
    return Checkpoint(p, strip_prefix(state), meta if isinstance(meta, dict) else {})


def _find_state(tree: object, path: Path) -> StateDict:
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: holds a {type(tree).__name__}, not a dict of weights")
    for key in _STATE_KEYS:
        inner = tree.get(key)
        if isinstance(inner, dict) and any(isinstance(v, Tensor | PickledArray) for v in inner.values()):
            return _arrays(inner, path)
    found = {k: v for k, v in tree.items() if isinstance(v, Tensor | PickledArray)}
    if not found:
        keys = ", ".join(repr(k)[:40] for k in list(tree)[:10])
        raise ModelError(f"{path}: holds no weights; at the top there are: {keys or 'no entries'}")
    return _arrays(found, path)


def _arrays(state: Mapping[object, object], path: Path) -> StateDict:
    out: StateDict = {}
    for name, value in state.items():
        try:
            array = value.numpy() if isinstance(value, Tensor | PickledArray) else None
        except ModelError as e:
            raise ModelError(f"{path}: tensor {str(name)[:80]!r}: {e}") from None
        if array is None or not isinstance(name, str):
            raise ModelError(f"{path}: entry {str(name)[:80]!r} is no tensor")
        out[name] = array
    return out


def plain(value: object, depth: int = 8) -> object:
    """Dicts, lists, texts, numbers and arrays as lists; what is neither becomes its type's name."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, PickledArray):
        array = value.numpy()
        return array.tolist() if array is not None and array.size <= 10_000 else "<array>"
    if depth == 0:
        return "..."
    if isinstance(value, dict):
        return {str(k)[:200]: plain(v, depth - 1) for k, v in list(value.items())[:1000]}
    if isinstance(value, list | tuple):
        return [plain(v, depth - 1) for v in value[:1000]]
    return f"<{type(value).__name__}>"


def match(
    state: Mapping[str, Array],
    expected: Mapping[str, tuple[int, ...]],
    *,
    where: str = "the weights",
    what: str = "the network",
    optional: Callable[[str], bool] | None = None,
) -> StateDict:
    """The tensors of ``state`` that ``expected`` names, or one error with all that does not fit.

    Counters of batch norms are ignored in both directions: no output depends on them.

    Args:
        expected: shape by name.
        where, what: how the message calls the file and the network.
        optional: names that may be missing; the untrained error branch by default, if all of it is.

    Raises:
        ModelError: missing, unexpected or mis-shaped tensors, by name; or numbers that are not finite.
    """
    if optional is None:
        without = not any(n.startswith(ERROR_BRANCH) for n in state)

        def optional(name: str) -> bool:
            return without and name.startswith(ERROR_BRANCH)

    needed = {n: s for n, s in expected.items() if not n.endswith(COUNTER)}
    given = {n: v for n, v in state.items() if not n.endswith(COUNTER)}
    missing = [n for n in needed if n not in given and not optional(n)]
    unexpected = [n for n in given if n not in needed]
    shapes = [
        f"{n} is {_shape(given[n].shape)}, expected {_shape(s)}"
        for n, s in needed.items()
        if n in given and tuple(given[n].shape) != tuple(s)
    ]
    problems = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise ModelError(f"{where} does not fit {what}: {'; '.join(problems)}")
    bad = [n for n in needed if n in given and not _is_finite(given[n])]
    if bad:
        raise ModelError(f"{where}: {len(bad)} tensors hold NaN, infinity or no floats: {_some(bad)}")
    # A counter of another shape is no harm either: it is left out, and the module's own stays.
    return {n: v for n, v in state.items() if n in expected and v.shape == tuple(expected[n])}


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shape(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _is_finite(a: Array) -> bool:
    return a.dtype.kind == "f" and bool(np.isfinite(a).all())


def prepare(
    checkpoint: Checkpoint, card: Card, *, expected: Mapping[str, tuple[int, ...]] | None = None
) -> StateDict:
    """The checkpoint's tensors under our names, fitting the card's network exactly.

    Args:
        expected: shape by name of the network's tensors; needed for architectures without a key list
            (`keymaps.layout` has those of the ViT family; those of SAM and RTMDet come from their networks).

    Raises:
        ModelError: they do not fit; every missing, unexpected or mis-shaped tensor is counted and named.
    """
    where = str(checkpoint.path)
    if is_sam(card):
        return _prepare_sam(checkpoint, card, expected)
    if card.kind == "detector":
        return _prepare_detector(checkpoint, card, expected)
    if expected is None:
        if card.head is None or card.kind != "pose":
            raise ModelError(f"card {card.name!r} is of a {card.kind}; no key list of such networks is known")
        expected = layout(card.architecture, card.num_keypoints, card.head)
    expert = 0 if card.weights is None or card.weights.expert is None else card.weights.expert
    try:
        state = canonical(checkpoint.state, expert=expert).state
        pos = state.get("backbone.pos_embed")
        if pos is not None and pos.ndim == 3:
            w, h = card.preprocess.size
            state["backbone.pos_embed"] = fit_pos_embed(pos, (h // 16, w // 16))
    except ModelError as e:
        raise ModelError(f"{where}: {e}") from None
    _compare_flips(checkpoint, card)
    network = Signature(card.architecture, card.num_keypoints, card.head or card.kind)
    return match(state, expected, where=where, what=f"{card.name} ({network})")


def is_sam(card: Card) -> bool:
    """Whether a card is of SAM 2.1 or a relative of it."""
    return card.segmentation is not None and card.segmentation.method == "points"


def _prepare_sam(
    checkpoint: Checkpoint, card: Card, expected: Mapping[str, tuple[int, ...]] | None
) -> StateDict:
    from bodyloop.models.build import shapes_of

    where = str(checkpoint.path)
    try:
        state = canonical_sam(checkpoint.state)
    except ModelError as e:
        raise ModelError(f"{where}: {e}") from None
    what = f"{card.name} ({card.architecture})"
    return match(state, shapes_of(card) if expected is None else expected, where=where, what=what)


def _prepare_detector(
    checkpoint: Checkpoint, card: Card, expected: Mapping[str, tuple[int, ...]] | None
) -> StateDict:
    from bodyloop.models.build import shapes_of

    where = str(checkpoint.path)
    card = fitted(card, checkpoint)
    shapes = shapes_of(card) if expected is None else expected
    try:
        state = canonical_rtmdet(checkpoint.state, card.architecture, shapes)
    except ModelError as e:
        raise ModelError(f"{where}: {e}") from None
    return match(state, shapes, where=where, what=f"{card.name} ({card.architecture})")


def fitted(card: Card, checkpoint: Checkpoint) -> Card:
    """The card with the number of classes that a detector's file has; other cards as they are.

    Persons are class 0 of COCO's 80 and the only class of person detectors, so a file of either kind will do.

    Raises:
        ModelError: the file has some other number of classes than its card says.
    """
    classes = classes_of(checkpoint.state)
    if card.detection is None or classes is None or classes == card.detection.num_classes:
        return card
    if classes not in (1, 80) or card.detection.person_class != 0:
        raise ModelError(
            f"{checkpoint.path}: has {classes} classes, card {card.name!r} says {card.detection.num_classes}; write "
            "a card with detection.num_classes and detection.person_class as they are in the file"
        )
    return replace(card, detection=replace(card.detection, num_classes=classes))


def _compare_flips(checkpoint: Checkpoint, card: Card) -> None:
    """Warn where the file was trained with another left-right table than the card's skeleton has."""
    meta = checkpoint.metadata.get("dataset_meta")
    given = meta.get("flip_indices") if isinstance(meta, dict) else None
    if card.skeleton is None or not isinstance(given, list):
        return
    own = card.skeleton.flip.tolist()
    if given[: len(own)] != own:
        log.warning(
            "%s was trained with another left-right table (%s) than skeleton %s has; check the card",
            checkpoint.path, given, card.skeleton.name,
        )  # fmt: skip


def load_into(module: nn.Module, state: Mapping[str, Array], *, where: str = "the weights") -> None:
    """Fill a torch module, strictly.

    A module on torch's meta device takes over the new tensors, so that nothing is allocated twice. The
    untrained error branch may be missing: it is then NaN (not available), so that no invented number can
    come out of it. Numbers are converted to the module's own types.

    Raises:
        ModelError: as `match`.
    """
    import torch

    own = module.state_dict()
    expected = {n: tuple(t.shape) for n, t in own.items()}
    matched = match(state, expected, where=where, what=type(module).__name__)
    tensors: dict[str, torch.Tensor] = {}
    for name, target in own.items():
        if name in matched:
            tensors[name] = torch.from_numpy(np.array(matched[name])).to(target.dtype)
        elif name.endswith(COUNTER):
            tensors[name] = torch.zeros(target.shape, dtype=target.dtype)
        else:  # the error branch: all else has been matched
            tensors[name] = torch.full(target.shape, float("nan"), dtype=target.dtype)
    module.load_state_dict(tensors, strict=True, assign=any(t.is_meta for t in own.values()))


def infer_signature(checkpoint: Checkpoint) -> Signature | None:
    """The network that a file's tensors belong to, None if it is none we know."""
    if any(n.startswith(("image_encoder.", "vision_encoder.")) for n in checkpoint.state):
        sam = recognise_sam(canonical_sam(checkpoint.state))
        return None if sam is None else Signature(sam, 0, "segmenter")
    detector = recognise_rtmdet(checkpoint.state)
    if detector is not None:
        return Signature(detector, 0, "detector")
    c = canonical(checkpoint.state)
    return recognise(c.state, experts=c.experts)


def infer_card(checkpoint: Checkpoint, cards: Iterable[Card] | None = None) -> Card:
    """The card of a bare weight file: the embedded one, else the only one it fits.

    Args:
        cards: among which to look; all of the catalogue by default.

    Raises:
        ModelError: it fits none, or several, which the message lists for the caller to choose from.
    """
    if checkpoint.card is not None:
        return checkpoint.card
    if cards is None:
        from bodyloop.models.registry import list_models

        cards = list_models()
    try:
        signature = infer_signature(checkpoint)
    except ModelError as e:
        raise ModelError(f"{checkpoint.path}: {e}") from None
    if signature is None:
        some = _some(sorted(checkpoint.state))
        raise ModelError(f"{checkpoint.path}: these are not the weights of a known network (tensors: {some})")
    found = [c for c in cards if _signature(c) == signature]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelError(f"{checkpoint.path}: no card for {signature}; write one and name it (card=...)")
    raise ModelError(
        f"{checkpoint.path}: fits several models ({', '.join(c.name for c in found)}) "
        "that are fed or read differently; say which one it is (card=..., --card)"
    )


def _signature(card: Card) -> Signature | None:
    if is_sam(card):
        return Signature(card.architecture, 0, "segmenter")
    if card.kind == "detector":
        return Signature(card.architecture, 0, "detector")
    if card.kind != "pose" or card.head is None:
        return None
    experts = card.weights is not None and card.weights.expert is not None
    return Signature(card.architecture, card.num_keypoints, card.head, experts)


def load_weights(
    path: str | Path, card: Card, *, expected: Mapping[str, tuple[int, ...]] | None = None
) -> StateDict:
    """Read a weight file for a card's network: `read_checkpoint`, then `prepare`."""
    return prepare(read_checkpoint(path), card, expected=expected)


def save_safetensors(
    path: str | Path, state: Mapping[str, Array], card: Card, metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights with their card inside, atomically.

    Raises:
        FileError: the file cannot be written.
    """
    write_safetensors(Path(path), state, {**(metadata or {}), **card.to_metadata()})


@dataclass(frozen=True)
class Converted:
    """What `convert` did."""

    source: Path
    target: Path
    card: Card
    tensors: int
    parameters: int


def convert(
    source: str | Path,
    target: str | Path,
    card: Card | None = None,
    *,
    overwrite: bool = False,
    expected: Mapping[str, tuple[int, ...]] | None = None,
) -> Converted:
    """Turn a weight file into a safetensors file in our names, with its card and its origin in the metadata.

    Args:
        source: `.pth`, `.pt` or `.safetensors` in any known dialect.
        target: must end in ``.safetensors``; appears only when it is complete.
        card: what the weights are; found by their shapes if they fit one card only.
        overwrite: replace an existing target.
        expected: as in `prepare`.

    Raises:
        FileError: source unreadable, target unwritable or there already.
        ModelError: the weights do not fit the card, or fit several.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise FileError(f"{target}: the result is a safetensors file; give it a name ending in .safetensors")
    if target.exists() and not overwrite:
        raise FileError(f"{target} is there already; allow overwriting it, or choose another name")
    if not target.parent.is_dir():
        raise FileError(f"cannot write {target}: there is no folder {target.parent}")
    checkpoint = read_checkpoint(source)
    card = fitted(card or infer_card(checkpoint), checkpoint)
    state = prepare(checkpoint, card, expected=expected)
    origin = dict(zip(SOURCE_KEYS, (source.name, sha256_of(source)), strict=True))
    save_safetensors(target, state, card, origin)
    once = distinct(state, card.architecture) if card.kind == "detector" else state
    parameters = count_parameters({n: v.shape for n, v in once.items()})
    log.info("%s: %d tensors of %s written to %s", source, len(state), card.name, target)
    return Converted(source, target, card, len(state), parameters)


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise FileError(f"cannot read {path}: {e.strerror or e}") from e
