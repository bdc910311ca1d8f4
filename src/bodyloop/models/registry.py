"""Models by name: the catalogue's cards, the embedded models, and files and repositories of your own.

What users type is a name ("pmpose-b", in any case), a file (`.onnx`, `.safetensors`, `.pth`, or a card
`.toml`) or a repository on the hub ("owner/name", "owner/name/file", "...@revision"). `find_card` says what
it is, `resolve` also brings the weights. Cards are plain files: `catalog/` for what lies on the hub,
`assets/` for what is in the wheel; an embedded model has its file beside its card and is preferred.
"""

from __future__ import annotations

import difflib
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from bodyloop.errors import ConfigError, FileError, ModelError
from bodyloop.models import hub
from bodyloop.models._safetensors import read_metadata
from bodyloop.models.cards import Card, load_card

_HERE = Path(__file__).parent
CATALOG = _HERE / "catalog"
ASSETS = _HERE.parent / "assets"
_WEIGHTS = (".onnx", ".safetensors", ".pth", ".pt", ".pkl")


@dataclass(frozen=True)
class _Found:
    card: Card
    file: Path | None = None  # the weights, where they are known to lie


@cache
def _catalogue() -> MappingProxyType[str, _Found]:
    """Cards of the package by name; what stands in ``assets`` replaces what stands in ``catalog``."""
    out: dict[str, _Found] = {}
    for folder in (CATALOG, ASSETS):
        for path in sorted(folder.glob("*.toml")):
            card = load_card(path)
            out[card.name] = _Found(card, _beside(card, path))
    return MappingProxyType(out)


def _beside(card: Card, path: Path) -> Path | None:
    """The weights that lie beside a card, if it speaks of a local file."""
    if card.weights is None or card.weights.remote:
        return None
    return path.parent / card.weights.file


def list_models(kind: str | None = None) -> tuple[Card, ...]:
    """All cards of the package, by name; of one kind ("pose", "detector", "segmenter") if asked."""
    cards = (f.card for _, f in sorted(_catalogue().items()))
    return tuple(c for c in cards if kind is None or c.kind == kind)


def is_embedded(card: Card) -> bool:
    """Whether the card's weights are in the wheel."""
    found = _catalogue().get(card.name)
    return found is not None and found.file is not None and found.file.is_file()


def find_card(model: str | Path | Card) -> Card:
    """The card of a model name, file, or repository on the hub.

    Raises:
        ModelError: no such model (with the nearest name), or a weight file that fits several cards.
        ConfigError: a malformed card.
        FileError: a file that cannot be read.
    """
    return _find(model).card


def resolve(model: str | Path | Card, card: str | Path | Card | None = None) -> tuple[Card, Path]:
    """A model's card and its weights' file, fetched if necessary.

    Args:
        model: name, file, or repository on the hub.
        card: what a bare weight file is (a card, its file, or a model's name); needed if it fits several.

    Raises:
        ModelError, ConfigError, FileError: as `find_card` and `hub.fetch`.
    """
    if card is not None:
        path = Path(str(model))
        if isinstance(model, Card) or not _is_file(path):
            raise ModelError(f"card=... is for a weight file, and {_short(model)} is none")
        return find_card(card), path
    found = _find(model)
    if found.file is None:
        return found.card, hub.fetch(found.card)
    if not found.file.is_file():
        raise ModelError(f"{found.card.name}: its weights {found.file} are not there")
    return found.card, found.file


def _find(model: str | Path | Card) -> _Found:
    if isinstance(model, Card):
        known = _catalogue().get(model.name)
        return known if known is not None and known.card == model else _Found(model)
    text = str(model)
    named = _by_name(text)
    if named is not None and not isinstance(model, Path):
        return named
    path = Path(text)
    if text.startswith("~"):
        path = Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib's raises where there is no home
    if _is_file(path):
        return _from_file(path)
    if _is_folder(path):
        raise ModelError(
            f"{path} is a folder, not a model; a training run becomes one with "
            f"'bodyloop export {path} model.onnx'"
        )
    if isinstance(model, str) and (found := _from_hub(text)) is not None:
        return found
    if path.suffix.lower() in (*_WEIGHTS, ".toml"):
        raise FileError(f"there is no file {path}")
    raise ModelError(_unknown(text))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False


def _by_name(text: str) -> _Found | None:
    name = text.strip().lower().replace("_", "-")
    catalogue = _catalogue()
    if name in catalogue:
        return catalogue[name]
    for found in catalogue.values():
        if name in found.card.aliases:
            return found
    return None


def _unknown(text: str) -> str:
    names = [n for f in _catalogue().values() for n in (f.card.name, *f.card.aliases)]
    near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"unknown model {_short(text)}{hint} A model is a name ({', '.join(sorted(_catalogue()))}), "
        "a file (.onnx, .safetensors, .pth, .toml) or a repository on the hub (owner/name)"
    )


def _short(value: object) -> str:
    return repr(str(value)[:100])


def _from_file(path: Path) -> _Found:
    suffix = path.suffix.lower()
    if suffix not in (*_WEIGHTS, ".toml"):
        raise ModelError(f"{path}: {', '.join(_WEIGHTS)} or a card (.toml) is expected")
    if suffix == ".toml":
        card = load_card(path)
        return _Found(card, _beside(card, path))
    beside = path.with_suffix(".toml")
    if beside.is_file():
        try:
            return _Found(load_card(beside), path)
        except ConfigError as e:
            told = f"{beside.name} beside {path.name} is read as its card; rename it if it is something else"
            raise ConfigError(f"{e}; {told}") from e
    if suffix == ".onnx":
        return _Found(_card_of_onnx(path), path)
    if suffix == ".safetensors":
        inside = Card.from_metadata(read_metadata(path), str(path))
        if inside is not None:
            return _Found(inside, path)
    from bodyloop.models.checkpoints import infer_card, read_checkpoint

    return _Found(infer_card(read_checkpoint(path), list_models()), path)


def bare_onnx(model: str | Path | Card) -> Path | None:
    """The file, if an ONNX file is meant that has no card, neither inside nor beside.

    Raises:
        ModelError, FileError: the file is damaged, or cannot be read.
        ConfigError: the card inside is malformed.
    """
    path = Path(str(model))
    if isinstance(model, Card) or path.suffix.lower() != ".onnx" or not _is_file(path):
        return None
    return path if not path.with_suffix(".toml").is_file() and _card_inside(path) is None else None


def _card_inside(path: Path) -> Card | None:
    from bodyloop.engines._graph import graph_names

    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            metadata = graph_names(data[:])[2]
    except ValueError as e:  # an empty file cannot be mapped
        raise ModelError(f"{path}: no ONNX model ({e})") from None
    except OSError as e:
        raise FileError(f"cannot read {path}: {e.strerror or e}") from e
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from None
    return Card.from_metadata(metadata, str(path))


def _card_of_onnx(path: Path) -> Card:
    card = _card_inside(path)
    if card is None:
        raise ModelError(
            f"{path}: holds no card that says how to feed it; write one, as "
            f"{path.with_suffix('.toml').name} beside it"
        )
    return card


def _from_hub(text: str) -> _Found | None:
    """``owner/name[/file][@revision]``: a card of ours that speaks of it, or the repository's own.

    None for what only looks so: a path to a file that is not there.
    """
    address, _, revision = text.partition("@")
    parts = address.split("/")
    if len(parts) < 2 or not all(parts) or parts[0][0] in ".~":
        return None
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    ours = [c for c in list_models() if _is_there(c, repository, file)]
    if len(ours) > 1:
        raise ModelError(f"{text}: {repository} holds several models; name one: {_names(ours)}")
    if not ours:
        if file or Path(repository).suffix.lower() in (*_WEIGHTS, ".toml"):
            return None
        return _Found(hub.fetch_card(repository, revision or "main"))
    card = ours[0]
    if revision and card.weights is not None:
        # Another revision is another file: what the card knows of the sum no longer holds.
        try:
            card = card.with_weights(replace(card.weights, revision=revision, sha256=None))
        except ConfigError as e:
            raise ModelError(f"{text}: {e}") from None
    return _Found(card)


def _is_there(card: Card, repository: str, file: str) -> bool:
    w = card.weights
    return w is not None and w.repository == repository and (not file or w.file == file)


def _names(cards: Iterable[Card]) -> str:
    return ", ".join(c.name for c in cards)
