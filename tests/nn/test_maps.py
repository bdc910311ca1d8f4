"""The torch twins against the stored numbers, the numpy definitions and their own promises."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor, nn

from bodyloop.errors import InputError
from bodyloop.maps.decode import decode
from bodyloop.maps.sparsemax import sparsemax as numpy_sparsemax
from bodyloop.maps.sparsemax import sparsemax_newton as numpy_newton
from bodyloop.nn.maps import Decoder, dark_blur, decode_dark_udp, flip_average, oks_blur, sparsemax
from bodyloop.nn.maps import sparsemax_newton as newton
from tests.parity.manifest import compare, given

FILE = "decode.npz"
ROWS = arrays(
    np.float64, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-1e3, 1e3, width=32)
)


def stored(file: str, key: str) -> Tensor:
    return torch.from_numpy(given(file, key).copy())


def by_sorting(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sparsemax of rows (n, m) as the paper writes it."""
    z = z - z.max(axis=1, keepdims=True)
    falling = -np.sort(-z, axis=1)
    j = np.arange(1, z.shape[1] + 1)
    sums = np.cumsum(falling, axis=1)
    k = (1 + j * falling > sums).sum(axis=1)
    tau = (sums[np.arange(len(z)), k - 1] - 1) / k
    return np.maximum(z - tau[:, None], 0)


# --- sparsemax


def test_sparsemax_equals_the_stored_numbers() -> None:
    for z, p, g, dz in (("z", "p", "g", "dz"), ("z3", "p3", "g3", "dz3")):
        logits = stored("sparsemax.npz", z).requires_grad_()
        out = sparsemax(logits)
        compare("sparsemax.npz", p, out.detach(), 1e-6)
        out.backward(stored("sparsemax.npz", g))
        assert logits.grad is not None
        compare("sparsemax.npz", dz, logits.grad, 1e-6)
    compare("sparsemax.npz", "p_big", sparsemax(stored("sparsemax.npz", "z_big")), 1e-6)


@drawn(ROWS)
def test_sparsemax_equals_sorting(z: npt.NDArray[np.float64]) -> None:
    p = sparsemax(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(p, by_sorting(z), atol=1e-9)


@pytest.mark.parametrize("spread", [1e-3, 0.1, 0.3, 1.0, 10.0, 1e6])
def test_sparsemax_of_whole_maps(spread: float) -> None:
    z = np.random.default_rng(3).normal(0, spread, (20, 3072)).astype(np.float32)
    p = sparsemax(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(p, by_sorting(z.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(p, numpy_sparsemax(z, axes=1), atol=1e-6)


def test_sparsemax_climbs_a_long_staircase() -> None:
    """Rows made so that the support shrinks a little in every step are solved, too."""
    z = -(0.5 ** np.arange(0, 30)[::-1].repeat(3)).reshape(1, -1)
    np.testing.assert_allclose(sparsemax(torch.from_numpy(z)).numpy(), by_sorting(z), atol=1e-9)
    z = np.cumsum(np.full((1, 3072), -1e-4), axis=1)
    np.testing.assert_allclose(sparsemax(torch.from_numpy(z)).numpy(), by_sorting(z), atol=1e-9)


def test_sparsemax_of_flat_masked_and_broken_rows() -> None:
    inf, nan = float("inf"), float("nan")
    z = torch.tensor([[2.0, 2, 2, 2], [0, -inf, 0, -inf], [nan, 0, 0, 0], [inf, 0, 0, 0], [-inf] * 4])
    for function in (sparsemax, newton):
        p = function(z)
        torch.testing.assert_close(p[:2], torch.tensor([[0.25] * 4, [0.5, 0, 0.5, 0]]))
        assert p[2:].isnan().all()


def test_sparsemax_gradient_is_exact() -> None:
    z = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(sparsemax, (z,))
    assert torch.autograd.gradcheck(newton, (z,))


def test_newton_equals_sparsemax_with_gradient() -> None:
    z = torch.randn(2, 5, 3072, generator=torch.Generator().manual_seed(1))
    g = torch.randn(2, 5, 3072, generator=torch.Generator().manual_seed(2))
    grads = []
    for function in (sparsemax, newton):
        leaf = z.clone().requires_grad_()
        function(leaf).backward(g)
        grads.append(leaf.grad)
    torch.testing.assert_close(newton(z), sparsemax(z), atol=5e-7, rtol=0)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=0)
    np.testing.assert_allclose(newton(z, 3).numpy(), numpy_newton(z.numpy(), 3, axes=1), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    z = torch.randn(3, 3072, generator=torch.Generator().manual_seed(4)).to(dtype)
    for function in (sparsemax, newton):
        p = function(z)
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, function(z.float()))


def test_sparsemax_compiles_into_one_graph() -> None:
    compiled = torch.compile(lambda z: sparsemax(z), backend="eager", fullgraph=True)
    z = torch.randn(3, 500, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(compiled(z), sparsemax(z), atol=1e-6, rtol=0)


# --- decoding


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return stored(FILE, "maps")


VARIANCES = given("oks_kernels.npz", "s").tolist()


def test_expected_oks_equals_the_stored_numbers(maps: Tensor) -> None:
    decoder = Decoder("expected_oks", (48, 64), VARIANCES)
    points, values = decoder(maps)
    sure = given(FILE, "eoks_margin") >= 1e-5
    assert (~sure).sum() == 6
    compare(FILE, "eoks_xy", points, 1e-4, mask=sure[..., None])
    compare(FILE, "eoks_val", values, 1e-6, mask=sure)
    blurred = decoder.rows @ maps @ decoder.columns
    compare(FILE, "eoks_conv_sub", blurred[..., ::4, ::4], 1e-6)
    compare(FILE, "eoks_conv_max", blurred.amax(dim=(2, 3)), 1e-6)


def test_dark_equals_the_stored_numbers(maps: Tensor) -> None:
    points, values = decode_dark_udp(maps, bound=None)
    margin, step = given(FILE, "dark_margin"), given(FILE, "dark_step")
    sure = (margin >= 1e-5) & (given(FILE, "dark_val") > 0)
    easy = (step <= 1) & (margin >= 1e-2)
    compare(FILE, "dark_xy", points, 1e-4, mask=(sure & easy)[..., None])
    compare(FILE, "dark_xy", points, 0.02, mask=(sure & ~easy)[..., None])
    compare(FILE, "dark_val", values, 1e-6)


@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
@pytest.mark.parametrize("source", ["stored", "sparse", "heat"])
def test_decoders_equal_their_definitions(
    maps: Tensor, how: Literal["expected_oks", "dark_udp"], source: str
) -> None:
    rng = np.random.default_rng(6)
    given_maps = {
        "stored": maps.numpy(),
        "sparse": numpy_sparsemax(rng.normal(0, 1, (4, 17, 64, 48)).astype(np.float32)),
        "heat": rng.normal(0, 1, (4, 17, 64, 48)).astype(np.float32),
    }[source]
    points, values = Decoder(how, (48, 64), VARIANCES)(torch.from_numpy(given_maps.copy()))
    expected = decode(given_maps, how, VARIANCES)
    if source == "stored":  # ties and nearly flat places are chance in single precision
        sure = (given(FILE, "eoks_margin") >= 1e-5) & (given(FILE, "dark_margin") >= 1e-5)
    else:
        sure = np.ones(given_maps.shape[:2], bool)
    assert (np.isnan(points.numpy()) == np.isnan(expected.points))[sure].all()
    np.testing.assert_allclose(points.numpy()[sure], expected.points[sure], atol=2e-3)
    np.testing.assert_allclose(values.numpy()[sure], expected.scores[sure], atol=1e-6)


@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
def test_ties_go_to_the_first_cell(how: Literal["expected_oks", "dark_udp"]) -> None:
    flat = torch.full((1, 17, 64, 48), 1 / 3072)
    points, values = Decoder(how, (48, 64), VARIANCES)(flat)
    assert (values == 1 / 3072).all()
    if how == "expected_oks":
        assert (points == 0).all()
    else:
        assert (points.abs() <= 1).all()
    twins = torch.zeros(1, 17, 64, 48)
    twins[..., 20, 30] = twins[..., 20, 10] = twins[..., 40, 5] = 1 / 3
    points, _ = Decoder(how, (48, 64), VARIANCES)(twins)
    torch.testing.assert_close(points, torch.tensor([10.0, 20]).expand_as(points), atol=1e-3, rtol=0)


@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
def test_decoding_keeps_single_precision_inside_an_autocast(
    maps: Tensor, how: Literal["expected_oks", "dark_udp"]
) -> None:
    decoder = Decoder(how, (48, 64), VARIANCES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = decoder(maps)
    for got, expected in zip(inside, decoder(maps), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)


def test_nothing_positive_and_nan_decode_to_nan() -> None:
    zero, broken = torch.zeros(1, 17, 64, 48), torch.zeros(1, 17, 64, 48)
    broken[0, :, 3, 3] = float("nan")
    assert decode_dark_udp(zero)[0].isnan().all()
    assert decode_dark_udp(zero - 1)[0].isnan().all()
    assert decode_dark_udp(broken)[0].isnan().all()
    assert Decoder("expected_oks", (48, 64), VARIANCES)(broken)[0].isnan().all()
    assert (Decoder("expected_oks", (48, 64), VARIANCES)(zero)[0] == 0).all()


def test_dark_step_is_bounded_unless_asked_otherwise(maps: Tensor) -> None:
    free, _ = decode_dark_udp(maps, bound=None)
    held, _ = decode_dark_udp(maps)
    index = maps.flatten(2).argmax(-1)
    cell = torch.stack([index % 48, index // 48], dim=-1)
    known = ~held.isnan()
    assert ((free - cell).abs()[known] > 1.5).any()
    assert ((held - cell).abs()[known] <= 1 + 1e-6).all()
    torch.testing.assert_close(held[known], torch.minimum(torch.maximum(free, cell - 1.0), cell + 1.0)[known])


def test_results_do_not_depend_on_the_batch(maps: Tensor) -> None:
    for decoder in (Decoder("expected_oks", (48, 64), VARIANCES), Decoder("dark_udp", (48, 64))):
        together = decoder(maps)
        for i in range(len(maps)):
            for whole, alone in zip(together, decoder(maps[i : i + 1]), strict=True):
                torch.testing.assert_close(whole[i : i + 1], alone, equal_nan=True, atol=1e-6, rtol=0)
        assert [tuple(t.shape) for t in decoder(maps[:0])] == [(0, 17, 2), (0, 17)]


@settings(deadline=None, max_examples=25)
@drawn(st.floats(0.55, 30.0), st.integers(3, 20), st.integers(3, 20))
def test_blur_matrices_keep_mass_and_fold_borders(variance: float, width: int, height: int) -> None:
    """Small maps under wide kernels: the mirror image is mirrored again."""
    rows, columns = oks_blur(torch.tensor([variance], dtype=torch.float64), (width, height))
    maps = np.random.default_rng(width * 31 + height).random((1, height, width))
    r = int(np.ceil(3 * variance))
    d = np.arange(-r, r + 1)
    kernel = np.exp(-(d**2) / (2 * variance))
    kernel /= kernel.sum()
    padded = np.pad(maps[0], r, mode="symmetric")
    expected = np.apply_along_axis(np.convolve, 0, padded, kernel, "valid")
    expected = np.apply_along_axis(np.convolve, 1, expected, kernel, "valid")
    blurred = (rows @ torch.from_numpy(maps) @ columns).numpy()
    np.testing.assert_allclose(blurred[0], expected, atol=1e-12)
    assert blurred.sum() == pytest.approx(maps.sum())


def test_dark_blur_has_zeros_beyond_the_border() -> None:
    rows, columns = dark_blur((48, 64))
    sums = rows.sum(dim=1)
    assert tuple(rows.shape) == (64, 64) and tuple(columns.shape) == (48, 48)
    assert sums[10].item() == pytest.approx(1.0)
    assert sums[0].item() == pytest.approx(0.5 + float(rows[20, 20]) / 2)  # half the kernel and its middle


def test_decoder_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="'argmax'; there are expected_oks, dark_udp"):
        Decoder("argmax", (48, 64))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the variances"):
        Decoder("expected_oks", (48, 64))
    assert not Decoder("dark_udp", (48, 64)).state_dict()


# --- flip average


def test_flip_average_by_hand() -> None:
    flip = torch.tensor([0, 2, 1])
    plain = {
        "maps": torch.arange(6.0).reshape(1, 3, 1, 2),
        "presence": torch.tensor([[0.0, 0.2, 0.4]]),
        "logits": torch.ones(1, 3, 1, 2),
        "features": torch.ones(1, 4, 2, 2),
    }
    mirrored = {
        "maps": torch.tensor([[[[10.0, 20]], [[30, 40]], [[50, 60]]]]),
        "presence": torch.tensor([[1.0, 0.6, 0.8]]),
        "logits": torch.zeros(1, 3, 1, 2),
        "features": torch.zeros(1, 4, 2, 2),
    }
    out = flip_average(plain, mirrored, flip)
    assert list(out) == list(plain)
    torch.testing.assert_close(out["maps"], torch.tensor([[[[10.0, 5.5]], [[31, 26.5]], [[22, 17.5]]]]))
    torch.testing.assert_close(out["presence"], torch.tensor([[0.5, 0.5, 0.5]]))
    assert out["logits"] is plain["logits"] and out["features"] is plain["features"]


# --- the graph


class _Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expected = Decoder("expected_oks", (48, 64), VARIANCES)
        self.dark = Decoder("dark_udp", (48, 64))

    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        maps = newton(2 * logits.flatten(2)).reshape(logits.shape)
        return (maps, *self.expected(maps), *self.dark(maps))


@pytest.mark.slow
def test_twins_export_to_standard_operators_with_any_batch() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    logits = torch.randn(3, 17, 64, 48, generator=torch.Generator().manual_seed(7))
    graph = _Graph().eval()
    program = torch.onnx.export(
        graph, (logits[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    model = onnx.load_model_from_string(file.getvalue())
    nodes = list(model.graph.node) + [n for f in model.functions for n in f.node]
    assert not {"Sort", "TopK", "Loop", "If", "NonZero", "Einsum"} & {node.op_type for node in nodes}
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        for batch in (logits, logits[:1]):
            answers = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
            for answer, expected in zip(answers, graph(batch), strict=True):
                np.testing.assert_allclose(answer, expected.numpy(), atol=1e-3)
