"""Change numbers, metadata and the length of a sparsemax in an ONNX file, without the onnx package.

Calibration gives a file other temperatures and another card; everything else is copied byte for byte. A sparsemax
in an exported file is a fixed number of Newton steps, and another temperature may need more of them: `steps` counts
them, `edited` appends copies of the last one. Field numbers: the standard's onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bodyloop.engines._graph import (
    _GRAPH_INITIALIZER,
    _GRAPH_NODE,
    _MODEL_GRAPH,
    _MODEL_METADATA,
    _NODE_INPUT,
    _NODE_OUTPUT,
    _TENSOR_NAME,
    _fields,
    _key,
    _name,
    _node_names,
    _text,
)
from bodyloop.errors import ModelError

_NODE_NAME, _NODE_TYPE = 3, 4
_TENSOR_TYPE, _TENSOR_RAW, _FLOAT = 2, 9, 1


@dataclass(frozen=True)
class _Node:
    raw: bytes
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class _Chain:
    """Newton steps one behind the other: the names of the thresholds, from the start value to the last."""

    thresholds: tuple[str, ...]

    @property
    def steps(self) -> int:
        return len(self.thresholds) - 1


def steps(model: bytes) -> int | None:
    """Newton steps of the file's sparsemaxes (the fewest, if they differ); None for a file without any.

    Raises:
        ModelError: the bytes are not an ONNX model.
    """
    return min((c.steps for c in _chains(_nodes(_graph(model)))), default=None)


def edited(
    model: bytes, scalars: Mapping[str, float], metadata: Mapping[str, str], *, more_steps: int = 0
) -> bytes:
    """The model with other values of initialisers () float32, other metadata entries, and longer sparsemaxes.

    Raises:
        ModelError: the bytes are not an ONNX model, or have no such initialiser.
    """
    parts: list[bytes | memoryview] = []
    for f in _fields(memoryview(model)):
        if f.number == _MODEL_GRAPH:
            parts.append(_message(_MODEL_GRAPH, _edited_graph(f.content, scalars, more_steps)))
        elif f.number != _MODEL_METADATA or _name(f.content, 1) not in metadata:
            parts.append(f.whole)
    for key, value in metadata.items():
        entry = _message(1, key.encode()) + _message(2, value.encode())
        parts.append(_message(_MODEL_METADATA, entry))
    return b"".join(parts)


def _edited_graph(graph: memoryview, scalars: Mapping[str, float], more_steps: int) -> bytes:
    left = set(scalars)
    nodes = iter(_longer(_nodes(graph), more_steps))
    parts: list[bytes | memoryview] = []
    placed = False
    for f in _fields(graph):
        name = _name(f.content, _TENSOR_NAME) if f.number == _GRAPH_INITIALIZER else ""
        if name in scalars:
            left.discard(name)
            parts.append(_message(_GRAPH_INITIALIZER, _scalar(name, scalars[name])))
        elif f.number != _GRAPH_NODE:
            parts.append(f.whole)
        elif not placed:  # all nodes together, in order of computation
            parts += [_message(_GRAPH_NODE, n.raw) for n in nodes]
            placed = True
    if left:
        raise ModelError(f"the file has no number {', '.join(sorted(left))} to set; export the model again")
    return b"".join(parts)


def _scalar(name: str, value: float) -> bytes:
    """A TensorProto without dimensions."""
    kind = bytes([_TENSOR_TYPE << 3, _FLOAT])
    return kind + _message(_TENSOR_NAME, name.encode()) + _message(_TENSOR_RAW, struct.pack("<f", value))


def _message(number: int, content: bytes) -> bytes:
    return _key(number, len(content)) + content


def _graph(model: bytes) -> memoryview:
    for f in _fields(memoryview(model)):
        if f.number == _MODEL_GRAPH:
            return f.content
    raise ModelError("the file is no ONNX model: it has no graph")


def _nodes(graph: memoryview) -> list[_Node]:
    out = []
    for f in _fields(graph):
        if f.number == _GRAPH_NODE:
            reads, writes = _node_names(f.content)
            out.append(_Node(bytes(f.content), _name(f.content, _NODE_TYPE), tuple(reads), tuple(writes)))
    return out


# ------------------------------------------------------------------ Newton steps


def _chains(nodes: Sequence[_Node]) -> list[_Chain]:
    """The sparsemaxes: chains of t' = t + (sum - 1) / max(count, 1), sum and count computed from t."""
    maker = {w: n for n in nodes for w in n.writes}
    before = {n.writes[0]: n.reads[0] for n in nodes if _is_step(n, maker)}
    chains = []
    for last in before.keys() - set(before.values()):
        chain = [last]
        while chain[-1] in before:
            chain.append(before[chain[-1]])
        chains.append(_Chain(tuple(reversed(chain))))
    return chains


def _is_step(node: _Node, maker: Mapping[str, _Node]) -> bool:
    change = maker.get(node.reads[1]) if node.kind == "Add" else None
    if change is None or change.kind != "Div":
        return False
    above, below = (maker.get(r) for r in change.reads)
    return (
        above is not None
        and below is not None
        and above.kind == "Sub"
        and below.kind in ("Clip", "Max")
        and all(_is_from(r, node.reads[0], maker) for r in change.reads)
    )


def _is_from(name: str, source: str, maker: Mapping[str, _Node], depth: int = 8) -> bool:
    """Whether a tensor is computed from another within a few nodes."""
    if name == source:
        return True
    made = maker.get(name)
    return made is not None and depth > 0 and any(_is_from(r, source, maker, depth - 1) for r in made.reads)


def _longer(nodes: list[_Node], more: int) -> list[_Node]:
    """The nodes with ``more`` copies of the last step behind each sparsemax."""
    if more <= 0:
        return nodes
    for chain in _chains(nodes):
        nodes = list(_extended(nodes, chain, more))
    return nodes


def _extended(nodes: Sequence[_Node], chain: _Chain, more: int) -> Iterator[_Node]:
    start, end = chain.thresholds[-2:]
    step = _between(nodes, start, end)
    inside = {w for n in step for w in n.writes}
    last = f"{end}.step{more}"
    for n in nodes:
        if n in step:
            yield n
        else:  # whoever used the last threshold uses the new last one
            yield _renamed(n, {end: last})
        if end not in n.writes:
            continue
        for i in range(1, more + 1):
            names = {w: f"{w}.step{i}" for w in inside}
            names[start] = end if i == 1 else f"{end}.step{i - 1}"
            yield from (_renamed(s, names, f".step{i}") for s in step)


def _between(nodes: Sequence[_Node], start: str, end: str) -> list[_Node]:
    """The nodes that lead from one tensor to another, in order."""
    ahead = {start}
    for n in nodes:
        if not ahead.isdisjoint(n.reads):
            ahead.update(n.writes)
    needed = {end}
    for n in reversed(nodes):
        if not needed.isdisjoint(n.writes) and not ahead.isdisjoint(n.writes):
            needed.update(r for r in n.reads if r in ahead)
    return [n for n in nodes if not needed.isdisjoint(n.writes) and start not in n.writes]


def _renamed(node: _Node, names: Mapping[str, str], suffix: str = "") -> _Node:
    """The node with other names of what it reads and writes (its inner graphs are left alone)."""
    if names.keys().isdisjoint((*node.reads, *node.writes)):
        return node
    parts: list[bytes | memoryview] = []
    for f in _fields(memoryview(node.raw)):
        if f.number in (_NODE_INPUT, _NODE_OUTPUT):
            old = _text(f.content)
            parts.append(_message(f.number, names.get(old, old).encode()))
        elif f.number == _NODE_NAME and suffix:
            parts.append(_message(_NODE_NAME, bytes(f.content) + suffix.encode()))
        else:
            parts.append(f.whole)
    raw = b"".join(parts)
    reads, writes = _node_names(memoryview(raw))
    return _Node(raw, node.kind, tuple(reads), tuple(writes))
