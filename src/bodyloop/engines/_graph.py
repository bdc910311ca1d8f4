"""Cut an ONNX file down to the outputs that are wanted, without the onnx package.

onnxruntime computes every node of the graph it was given, whichever outputs are fetched. Whoever asks for
keypoints alone should not pay for the quality branch, so the graph is cut before the session is made. The
base install has no onnx package; the few protobuf fields needed here (names of nodes, their inputs and
outputs) are read directly, everything else is copied byte for byte. Field numbers: the standard's onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bodyloop.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_TENSOR_NAME, _VALUE_NAME = 8, 1


@dataclass(frozen=True)
class _Field:
    number: int
    whole: memoryview  # tag, length and content, as they stand in the file
    content: memoryview  # of a length-delimited field; empty for numbers


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ModelError("the file is truncated or is no ONNX model")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        kind = tag & 7
        content = data[0:0]
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            content = data[at : at + length]
            at += length
        else:
            raise ModelError("the file is no ONNX model")
        if at > len(data):
            raise ModelError("the file is truncated or is no ONNX model")
        yield _Field(tag >> 3, data[start:at], content)


def _text(data: memoryview) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as e:
        raise ModelError("the file is no ONNX model: a name in it is not text") from e


def _name(data: memoryview, number: int) -> str:
    for f in _fields(data):
        if f.number == number:
            return _text(f.content)
    return ""


def _node_names(node: memoryview) -> tuple[list[str], list[str]]:
    """Names that a node reads (those of its inner graphs included) and writes."""
    reads, writes = [], []
    for f in _fields(node):
        if f.number == _NODE_INPUT:
            reads.append(_text(f.content))
        elif f.number == _NODE_OUTPUT:
            writes.append(_text(f.content))
        elif f.number == _NODE_ATTRIBUTE:
            for g in _fields(f.content):
                if g.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    reads += _graph_reads(g.content)
    return reads, writes


def _graph_reads(graph: memoryview) -> list[str]:
    reads: list[str] = []
    for f in _fields(graph):
        if f.number == _GRAPH_NODE:
            reads += _node_names(f.content)[0]
        elif f.number == _GRAPH_OUTPUT:  # an inner graph may hand out a name of the outer one
            reads.append(_name(f.content, _VALUE_NAME))
    return reads


def _key(number: int, length: int) -> bytes:
    out = bytearray()
    for value in ((number << 3) | _BYTES, length):
        while value > 0x7F:
            out.append((value & 0x7F) | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def graph_names(model: bytes) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Input names, output names and metadata of an ONNX file.

    Raises:
        ModelError: the bytes are not an ONNX model, or are cut off.
    """
    inputs: list[str] = []
    outputs: list[str] = []
    initialisers: set[str] = set()
    metadata: dict[str, str] = {}
    for f in _fields(memoryview(model)):
        if f.number == _MODEL_METADATA:
            metadata[_name(f.content, 1)] = _name(f.content, 2)
        elif f.number == _MODEL_GRAPH:
            for g in _fields(f.content):
                if g.number == _GRAPH_INPUT:
                    inputs.append(_name(g.content, _VALUE_NAME))
                elif g.number == _GRAPH_OUTPUT:
                    outputs.append(_name(g.content, _VALUE_NAME))
                elif g.number == _GRAPH_INITIALIZER:
                    initialisers.add(_name(g.content, _TENSOR_NAME))
    if not outputs:
        raise ModelError("the file is no ONNX model: it has no outputs")
    return tuple(n for n in inputs if n not in initialisers), tuple(outputs), metadata


def cut(model: bytes, outputs: Sequence[str]) -> bytes:
    """The model with only ``outputs`` (in the file's order) and the nodes and weights they need."""
    parts: list[bytes | memoryview] = []
    for f in _fields(memoryview(model)):
        if f.number == _MODEL_GRAPH:
            graph = _cut_graph(f.content, frozenset(outputs))
            parts += [_key(_MODEL_GRAPH, len(graph)), graph]
        else:
            parts.append(f.whole)
    return b"".join(parts)


def _cut_graph(graph: memoryview, wanted: frozenset[str]) -> bytes:
    fields = list(_fields(graph))
    names = {i: _node_names(f.content) for i, f in enumerate(fields) if f.number == _GRAPH_NODE}
    needed = set(wanted)
    live: set[int] = set()
    for i in reversed(names):  # nodes stand in order of computation, so one walk from the end finds all
        reads, writes = names[i]
        if not needed.isdisjoint(w for w in writes if w):
            live.add(i)
            needed.update(reads)

    def stays(i: int, f: _Field) -> bool:
        if f.number == _GRAPH_NODE:
            return i in live
        if f.number == _GRAPH_OUTPUT:
            return _name(f.content, _VALUE_NAME) in wanted
        if f.number == _GRAPH_INITIALIZER:
            return _name(f.content, _TENSOR_NAME) in needed
        return True

    return b"".join(f.whole for i, f in enumerate(fields) if stays(i, f))
