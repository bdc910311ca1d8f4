"""Deterministic weights and pictures of the fixtures, taken from the fixture folder."""

from __future__ import annotations

from tests.parity.warp4x import load_script

_script = load_script("weights")
make_tensor = _script.make_tensor  # (name, shape, dtype) -> float32 array
make_state = _script.make_state  # path or parsed key list -> {name: array}
synthetic_image = _script.synthetic_image  # uint8 BGR (320, 416, 3)
synthetic_mask = _script.synthetic_mask  # uint8 0/1 (320, 416)
