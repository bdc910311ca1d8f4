"""Fetches weight files: from a folder of yours, from the Hugging Face cache, from the hub on first use.

A card says which file of which repository at which revision; that file is looked for in this order:

1. in the folder named by ``BODYLOOP_MODELS``, as ``<owner>/<name>/<file>`` or just by its file name;
2. in huggingface_hub's cache (``HF_HOME``, ``HF_HUB_CACHE``);
3. on the hub (``HF_ENDPOINT``), unless ``HF_HUB_OFFLINE`` is set.

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
    if weights.repository is None:
        raise ModelError(f"{card.name}: its card names no repository; put {weights.file} beside the card")
    local = find_local(card, cache=cache)
    if local is not None:
        return local
    place = _Place(weights.repository, weights.file, weights.revision, weights.size_bytes)
    _say_what_comes(card, weights)
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
    if weights is None or weights.repository is None:
        return None
    mine = _in_own_folder(weights, weights.repository)
    if mine is not None:
        _check(mine, card.name, weights, f"replace it, or unset {FOLDER_VARIABLE}")
        return mine
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
        if weights is not None and weights.repository is None:
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


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where something cannot be had."""
    from huggingface_hub.errors import HfHubHTTPError

    # Errors of the http library beneath (requests, httpx, ...) by the base of the hub's own; ValueError for
    # names that are none.
    return OSError, ValueError, cast(type[Exception], HfHubHTTPError.__mro__[1])


def _how_to_get(place: _Place, what: str, cache: str | Path | None, e: Exception) -> str:
    from huggingface_hub import constants

    size = f" ({human_size(place.size)})" if place.size else ""
    reason = (str(e).strip() or type(e).__name__).splitlines()[0][:300]
    folder = os.environ.get(FOLDER_VARIABLE) or "/a/folder/of/yours"
    address = f"{constants.ENDPOINT}/{place.repository}/resolve/{place.revision}/{quote(place.file)}"
    return (
        f"{what}: the file {place.file}{size} of {place.repository} is not here and could not be fetched: "
        f"{reason} - To do without: download {address} elsewhere, put it at "
        f"{Path(folder) / place.repository / place.file} and set {FOLDER_VARIABLE}={folder}; or copy the "
        f"cache folder {Path(cache or constants.HF_HUB_CACHE)} of a machine that has it (HF_HOME moves it)"
    )


def _check(path: Path, name: str, weights: WeightsFile, advice: str) -> None:
    """Refuse a file that is not the one the card means.

    Raises:
        ModelError: its sha256 is another one.
    """
    if weights.sha256 is None:
        return
    found = sha256_of(path)
    if found != weights.sha256:
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
    log.info("%s: fetching %s (%s) from %s", card.name, weights.file, size, weights.repository)
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
            card.name, card.licenses.weights, weights.repository,
        )  # fmt: skip


def human_size(size: int) -> str:
    """Bytes in words: ``615 MB``."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
