"""Fetches weight files: from a folder of yours, from the cache, from the hub or its own address on first use.

A card says which file of which repository at which revision, or its https address; it is looked for in this order:

1. in the folder named by ``BODYLOOP_MODELS``, as ``<owner>/<name>/<file>`` or just by its file name;
2. in huggingface_hub's cache (``HF_HOME``, ``HF_HUB_CACHE``); what lies on no hub in ``HF_HOME/bodyloop``;
3. on the hub (``HF_ENDPOINT``) or at its address, unless ``HF_HUB_OFFLINE`` is set.

What comes is checked against the card's sha256 where one is known. Downloads are huggingface_hub's: a broken
connection is resumed, and an aborted one leaves no file under the final name. Whatever goes wrong ends in one
error that says which file of which size to put where.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from urllib.parse import quote

from bodyloop.errors import ConfigError, FileError, ModelError
from bodyloop.models.cards import Card, WeightsFile, load_card
from bodyloop.models.checkpoints import sha256_of

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "BODYLOOP_MODELS"
CARD_FILE = "bodyloop.toml"  # in a repository on the hub, what describes its weights


def fetch(card: Card, *, cache: str | Path | None = None, endpoint: str | None = None) -> Path:
    """Path of the card's weights, downloaded if necessary.

    Args:
        cache: huggingface_hub's cache folder; its own default if None.
        endpoint: address of the hub; ``HF_ENDPOINT`` or huggingface.co if None.

    Raises:
        ModelError: there are no published weights; they cannot be had; or they are not what the card says.
    """
    weights = card.weights
    if weights is None:
        raise ModelError(
            f"{card.name}: no weights were published for this configuration; train them, or name a file"
        )
    if not weights.remote:
        raise ModelError(f"{card.name}: its card names no repository; put {weights.file} beside the card")
    local = find_local(card, cache=cache)
    if local is not None:
        return local
    _say_what_comes(card, weights)
    if weights.repository is None:
        path = _download_address(weights, card.name, cache)
    else:
        place = _Place(weights.repository, weights.file, weights.revision, weights.size_bytes)
        path = _download(place, card.name, cache, endpoint)
    try:
        _check(path, card.name, weights, "it was taken out of the cache again; try once more, or report it")
    except ModelError:
        _remove(path)
        raise
    return path


def find_local(card: Card, *, cache: str | Path | None = None) -> Path | None:
    """The weights if they are on this machine already, never asking the network; None if they are not.

    Raises:
        ModelError: the file in the folder of `BODYLOOP_MODELS` is another one than the card means.
    """
    weights = card.weights
    if weights is None or not weights.remote:
        return None
    mine = _in_own_folder(weights, weights.repository or "")
    if mine is not None:
        _check(mine, card.name, weights, f"replace it, or unset {FOLDER_VARIABLE}")
        return mine
    if weights.repository is None:
        path = _of_address(weights, cache)
        return path if path.is_file() else None
    return _cached(_Place(weights.repository, weights.file, weights.revision), cache)


def fetch_card(
    repository: str, revision: str = "main", *, cache: str | Path | None = None, endpoint: str | None = None
) -> Card:
    """The card of a repository that brings its own (`bodyloop.toml`), its weights taken from the same place.

    Raises:
        ModelError: there is none, or it is malformed.
    """
    place = _Place(repository, CARD_FILE, revision)
    path = _cached(place, cache) or _download(place, f"the card of {repository}", cache, endpoint)
    try:
        card = load_card(path)
        weights = card.weights
        if weights is not None and not weights.remote:
            card = replace(card, weights=replace(weights, repository=repository, revision=revision))
    except (ConfigError, FileError) as e:
        _remove(path)  # it may be mended there
        raise ModelError(f"the card of {repository} on the hub is malformed: {e}") from None
    return card


@dataclass(frozen=True)
class _Place:
    """A file on the hub."""

    repository: str
    file: str
    revision: str
    size: int | None = None


def _in_own_folder(weights: WeightsFile, repository: str) -> Path | None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    base = Path(folder).expanduser()
    for candidate in (base / repository / weights.file, base / weights.file):
        if candidate.is_file():
            return candidate
    by_name = base / Path(weights.file).name
    # "model.safetensors" is every repository's name: it says nothing without its folder.
    return by_name if by_name.stem != "model" and by_name.is_file() else None


def _cached(place: _Place, cache: str | Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(
            repo_id=place.repository, filename=place.file, revision=place.revision, cache_dir=cache
        )
    except ValueError:  # no name of a repository; asking for it will say so
        return None
    return Path(found) if isinstance(found, str) else None


def _download(place: _Place, what: str, cache: str | Path | None, endpoint: str | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # Asked once beforehand: the download itself repeats this question for half a minute where there is
        # no network.
        url = hf_hub_url(place.repository, place.file, revision=place.revision, endpoint=endpoint)
        get_hf_file_metadata(url)
        path = hf_hub_download(
            repo_id=place.repository,
            filename=place.file,
            revision=place.revision,
            cache_dir=cache,
            endpoint=endpoint,
        )
    except hub_errors() as e:
        raise ModelError(_how_to_get(place, what, cache, e)) from e
    return Path(path)


def _of_address(weights: WeightsFile, cache: str | Path | None) -> Path:
    """Where the file of an address lies once it was fetched."""
    from huggingface_hub import constants

    address = (weights.url or "").partition("://")[2].replace(":", "_")
    return Path(cache or Path(constants.HF_HOME) / "bodyloop") / address


def _download_address(weights: WeightsFile, what: str, cache: str | Path | None) -> Path:
    from huggingface_hub.file_download import http_get

    target = _of_address(weights, cache)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            http_get(weights.url or "", file, displayed_filename=weights.file)
        part.replace(target)
    except hub_errors() as e:
        folder = os.environ.get(FOLDER_VARIABLE) or "/a/folder/of/yours"
        raise ModelError(
            f"{what}: the file {weights.file}{_size_of(weights.size_bytes)} is not here and could not be fetched: "
            f"{_reason(e)} - To do without: download {weights.url} elsewhere, put it at "
            f"{Path(folder) / weights.file} and set {FOLDER_VARIABLE}={folder}"
        ) from e
    finally:
        part.unlink(missing_ok=True)
    return target


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where something cannot be had."""
    from huggingface_hub.errors import HfHubHTTPError

    # Errors of the http library beneath (requests, httpx, ...) by the base of the hub's own; ValueError for
    # names that are none.
    return OSError, ValueError, cast(type[Exception], HfHubHTTPError.__mro__[1])


def _how_to_get(place: _Place, what: str, cache: str | Path | None, e: Exception) -> str:
    from huggingface_hub import constants

    folder = os.environ.get(FOLDER_VARIABLE) or "/a/folder/of/yours"
    address = f"{constants.ENDPOINT}/{place.repository}/resolve/{place.revision}/{quote(place.file)}"
    return (
        f"{what}: the file {place.file}{_size_of(place.size)} of {place.repository} is not here and could not be "
        f"fetched: {_reason(e)} - To do without: download {address} elsewhere, put it at "
        f"{Path(folder) / place.repository / place.file} and set {FOLDER_VARIABLE}={folder}; or copy the "
        f"cache folder {Path(cache or constants.HF_HUB_CACHE)} of a machine that has it (HF_HOME moves it)"
    )


def _size_of(size: int | None) -> str:
    return f" ({human_size(size)})" if size else ""


def _reason(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0][:300]


def _check(path: Path, name: str, weights: WeightsFile, advice: str) -> None:
    """Refuse a file that is not the one the card means.

    Raises:
        ModelError: its sha256 is another one.
    """
    if weights.sha256 is None:
        return
    found = sha256_of(path)
    if not found.startswith(weights.sha256):
        raise ModelError(
            f"{name}: {path} is not the file its card means "
            f"(sha256 {found}, expected {weights.sha256}); {advice}"
        )


def _remove(path: Path) -> None:
    """Take a refused download out of the cache: the link and what it points to."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    if target != path:
        target.unlink(missing_ok=True)


def _say_what_comes(card: Card, weights: WeightsFile) -> None:
    size = human_size(weights.size_bytes) if weights.size_bytes else "unknown size"
    origin = weights.repository or weights.url
    log.info("%s: fetching %s (%s) from %s", card.name, weights.file, size, origin)
    pinned = len(weights.revision) == 40 and set(weights.revision) <= set("0123456789abcdef")
    if weights.sha256 is None and not pinned:
        log.warning(
            "%s: neither commit nor checksum of this file is known (revision %s): it cannot be verified. "
            "No code from it is run.",
            card.name,
            weights.revision,
        )
    if card.licenses.copyleft:
        log.warning(
            "The weights of %s are licensed under %s by their authors (%s): what you distribute together "
            "with them falls under that licence. bodyloop itself is Apache-2.0 and does not contain them.",
            card.name, card.licenses.weights, origin,
        )  # fmt: skip


def human_size(size: int) -> str:
    """Bytes in words: ``615 MB``."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
