"""A card's skeleton: by name where it is one of the package's, else as a table of its own."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from bodyloop import skeletons
from bodyloop.errors import ConfigError
from bodyloop.models._tables import read_table, to_table
from bodyloop.skeletons import Skeleton


def known_skeletons() -> dict[str, Skeleton]:
    """The package's skeletons by name."""
    return {s.name: s for s in vars(skeletons).values() if isinstance(s, Skeleton)}


@dataclass(frozen=True)
class _SkeletonTable:
    name: str
    keypoints: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    sigmas: tuple[float, ...] | None = None
    upper: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()


def read_skeleton(value: object, where: str) -> Skeleton:
    """A skeleton from its name or table.

    Raises:
        ConfigError: neither; the message begins with ``where``.
    """
    if isinstance(value, str):
        known = known_skeletons()
        if value not in known:
            near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"{where}: unknown skeleton {value[:60]!r}; did you mean {near!r}? "
                f"(known: {', '.join(sorted(known))}; a table with name, keypoints and links defines one)"
            )
        return known[value]
    t = read_table(_SkeletonTable, value, where)
    try:
        plain = Skeleton.define(t.name, t.keypoints, sigmas=t.sigmas, upper=t.upper, lower=t.lower)
        return replace(plain, links=tuple((plain.index(a), plain.index(b)) for a, b in t.links))
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from None


def write_skeleton(s: Skeleton, by_name: bool) -> object:
    """What `read_skeleton` reads back: the name of a known one if asked for, else a table."""
    if by_name and known_skeletons().get(s.name) == s:
        return s.name
    k = s.keypoints
    table = _SkeletonTable(
        s.name,
        k,
        tuple((k[a], k[b]) for a, b in s.links),
        s.sigmas,
        tuple(k[i] for i in s.upper),
        tuple(k[i] for i in s.lower),
    )
    return to_table(table)
