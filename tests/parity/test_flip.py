"""The flip test: mirroring back, averaging, decoding of the average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bodyloop.nn.maps import Decoder, flip_average
from tests.parity.manifest import compare, given
from tests.parity.test_nets import reference_decoder

NAMES = ["ProbPose-s", "PMPose-s"]
OUTPUTS = {"maps": "maps", "presence": "prob", "visibility": "vis", "quality": "oks", "error": "err"}


def stored(name: str, run: str) -> dict[str, Tensor]:
    return {
        output: torch.from_numpy(given(f"flip_{name}.npz", f"{run}_{key}").copy())
        for output, key in OUTPUTS.items()
    }


def merged(name: str) -> dict[str, Tensor]:
    flip = torch.from_numpy(given(f"flip_{name}.npz", "flip_indices").copy())
    return flip_average(stored(name, "a"), stored(name, "b"), flip)


@pytest.mark.parametrize("name", NAMES)
def test_average(name: str) -> None:
    file, out = f"flip_{name}.npz", merged(name)
    compare(file, "merged_maps_max", out["maps"].amax(dim=(2, 3)), 1e-5)
    compare(file, "merged_maps_sub", out["maps"][:, :, ::4, ::4], 1e-5)
    compare(file, "keypoints_probs", out["presence"], 1e-5)
    compare(file, "keypoints_visible", out["visibility"], 1e-5)
    compare(file, "keypoints_oks", out["quality"], 1e-5)
    compare(file, "keypoint_scores", out["quality"], 1e-5)
    compare(file, "keypoints_error", out["error"] / 80.0, 1e-5)  # 80: the map's diagonal


@pytest.mark.parametrize("name", NAMES)
def test_keypoints_of_the_average(name: str) -> None:
    file, decoder = f"flip_{name}.npz", reference_decoder(name)
    points, values = decoder(merged(name)["maps"])
    input_px = points.double().numpy() / [47, 63] * [192, 256]  # the reference's own px
    compare(file, "keypoints", input_px, 0.01)
    compare(file, "keypoints_conf", values, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_flipping_twice_changes_nothing(name: str) -> None:
    flip = torch.from_numpy(given(f"flip_{name}.npz", "flip_indices").copy())
    plain = stored(name, "a")
    mirrored = {k: v[:, flip].flip(-1) if v.ndim == 4 else v[:, flip] for k, v in plain.items()}
    for output, value in flip_average(plain, mirrored, flip).items():
        np.testing.assert_array_equal(value, plain[output], err_msg=output)


def test_the_reference_decoders_differ() -> None:
    """ProbPose and PMPose share the head, not the decoder: with the other one the numbers do not come out."""
    file = "flip_ProbPose-s.npz"
    points, _ = Decoder("dark_udp", (48, 64), bound=None)(merged("ProbPose-s")["maps"])
    input_px = points.double().numpy() / [47, 63] * [192, 256]
    with pytest.raises(AssertionError, match="entries differ"):
        compare(file, "keypoints", input_px, 0.01)
