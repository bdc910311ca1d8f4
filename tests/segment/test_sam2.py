"""SAM as a segmenter, on a small network with random weights: prompts, batches, files, engines, export."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bodyloop import roles  # noqa: E402
from bodyloop.api import clear_models, load_segmenter  # noqa: E402
from bodyloop.errors import FileError, InputError, MissingDependency, ModelError  # noqa: E402
from bodyloop.images import Image  # noqa: E402
from bodyloop.masks import Masks  # noqa: E402
from bodyloop.models.checkpoints import Checkpoint, infer_card, read_checkpoint  # noqa: E402
from bodyloop.models.keymaps_sam import rename  # noqa: E402
from bodyloop.models.registry import find_card, list_models  # noqa: E402
from bodyloop.nn.sam2 import decode, embed_masks, embed_points  # noqa: E402
from bodyloop.roles import Prompt  # noqa: E402
from bodyloop.segment.logits import as_masks, from_mask  # noqa: E402
from bodyloop.segment.sam2 import SamImage, SamSegmenter  # noqa: E402
from tests.parity_loop.stored import load_json  # noqa: E402
from tests.segment import mini  # noqa: E402

W, H = 100, 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the small network's weights, whose size is known meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        mini.add_size(patch)
        folder = tmp_path_factory.mktemp("mini")
        mini.save(folder, mini.network())
        yield folder
    clear_models()


def load(path: Path, **options: str) -> SamSegmenter:
    segmenter = load_segmenter(path, **options)  # type: ignore[arg-type]
    assert isinstance(segmenter, SamSegmenter)
    return segmenter


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> SamSegmenter:
    return load(folder / "mini.safetensors")


def photo(seed: int = 0) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def encoded(segmenter: SamSegmenter) -> SamImage:
    return segmenter.encode([photo()])[0]


def prompt(*points: tuple[float, float], box: tuple[float, ...] | None = None, **more: Masks) -> Prompt:
    at = np.array(points, np.float32).reshape(-1, 2)
    return Prompt(at, np.ones(len(at), np.int64), None if box is None else np.array(box, np.float32), **more)


PROMPTS = [
    prompt((20, 30), (60, 50)),
    prompt((40, 40)),
    prompt(box=(10, 10, 70, 60)),
    prompt(),
    prompt((70, 20), (30, 60)),
    prompt((50, 50), box=(5, 20, 90, 75)),
]


def test_it_is_a_segmenter(segmenter: SamSegmenter, encoded: SamImage) -> None:
    assert isinstance(segmenter, roles.Segmenter) and isinstance(encoded, roles.Encoded)
    assert encoded.image_size == (W, H) and str(segmenter) == mini.NAME


class TestPrompts:
    def test_company_changes_nothing(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        together = segmenter.logits(encoded, PROMPTS)
        result = segmenter.segment(encoded, PROMPTS)
        assert together.maps.shape == (6, 1, 16, 16) and together.scores.shape == (6, 1)
        for i, p in enumerate(PROMPTS):
            alone = segmenter.logits(encoded, [p])
            assert np.abs(alone.maps[0] - together.maps[i]).max() < 1e-4
            assert abs(alone.scores[0, 0] - result.scores[i]) < 1e-6
            assert segmenter.segment(encoded, [p]).masks.iou(result.masks[i])[0, 0] > 0.999
        spread = together.maps.reshape(6, -1)
        assert min(np.abs(spread[i] - spread[j]).max() for i in range(6) for j in range(i)) > 0.01

    def test_no_more_than_allowed_at_once(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        narrow = SamSegmenter(
            segmenter.encoder, segmenter.decoder, segmenter.preprocess, segmenter.segmentation, prompts=2
        )
        many = [prompt((x, 40)) for x in range(10, 80, 10)]
        assert np.allclose(narrow.logits(encoded, many).maps, segmenter.logits(encoded, many).maps, atol=1e-4)

    def test_an_empty_prompt_is_one_token_of_padding(
        self, segmenter: SamSegmenter, encoded: SamImage
    ) -> None:
        def direct(tokens: int) -> np.ndarray:
            with torch.inference_mode():
                network = mini.network()
                said = embed_points(network, torch.zeros(1, tokens, 2), torch.full((1, tokens), -1))
                none = embed_masks(network, torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.bool))
                return decode(network, encoded.features, said, none)[0][0].numpy()

        found = segmenter.logits(encoded, [prompt()]).maps[0, 0]
        gaps = np.abs(direct(1) - found).max(axis=(1, 2))
        assert gaps.min() < 1e-4
        assert np.abs(direct(2)[gaps.argmin()] - found).max() > 1e-3

    def test_corners_stand_for_the_box(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        sent: list[dict[str, np.ndarray]] = []
        decoder = segmenter.decoder

        class Listening:
            outputs, device = decoder.outputs, decoder.device

            def run(self, inputs, names):  # type: ignore[no-untyped-def]
                sent.append({k: np.asarray(inputs[k]) for k in ("points", "labels", "given")})
                return decoder.run(inputs, names)

            def warm_up(self, outputs: object = None) -> None: ...

        listening = SamSegmenter(segmenter.encoder, Listening(), segmenter.preprocess, segmenter.segmentation)
        listening.segment(encoded, [Prompt([[50, 40]], [0], [25, 20, 75, 60])])  # type: ignore[arg-type]
        assert sent[0]["labels"].tolist() == [[2, 3, 0, -1]]
        # 100 x 80 px on 64 x 64
        assert np.allclose(sent[0]["points"], [[[16, 16], [48, 48], [32, 32], [0, 0]]])
        assert sent[0]["given"].tolist() == [False]

    def test_a_mask_is_a_map(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        bitmap = np.zeros((1, H, W), bool)
        bitmap[0, 20:60, 30:70] = True
        mask = Masks.from_bitmaps(bitmap)
        given = segmenter.logits(encoded, [prompt((40, 40), mask=mask), PROMPTS[1]])
        same = segmenter.logits(encoded, [PROMPTS[1]] * 2, previous=[from_mask(mask, (16, 16)), None])
        assert np.allclose(given.maps, same.maps, atol=1e-4)
        assert np.abs(given.maps[0] - given.maps[1]).max() > 0.01
        assert np.allclose(given.maps[1:], segmenter.logits(encoded, [PROMPTS[1]]).maps, atol=1e-4)

    def test_maps_can_be_given_back(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        first = segmenter.logits(encoded, PROMPTS[:2], multimask=True)
        assert first.maps.shape == (2, 3, 16, 16) and np.abs(first.maps).max() <= 32
        again = segmenter.logits(encoded, PROMPTS[:2], previous=list(first.maps[:, 0]))
        assert np.abs(again.maps - segmenter.logits(encoded, PROMPTS[:2]).maps).max() > 0.01

    def test_candidates(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        maps = segmenter.logits(encoded, PROMPTS, multimask=True)
        for i, result in enumerate(segmenter.candidates(encoded, PROMPTS)):
            assert np.array_equal(result.scores, maps.scores[i])
            assert (np.diag(result.masks.iou(as_masks(maps.maps[i], (W, H)))) > 0.99).all()

    def test_nobody(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        result = segmenter.segment(encoded, [])
        assert len(result) == 0 and result.masks.size == (W, H)
        assert segmenter.candidates(encoded, []) == [] and segmenter.encode([]) == []

    def test_holes_by_the_card(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        card = mini.card(max_hole_area=30, max_sprinkle_area=9)
        tidy = SamSegmenter.from_card(segmenter.encoder, segmenter.decoder, card)
        maps = segmenter.logits(encoded, PROMPTS).maps[:, 0]
        found = tidy.segment(encoded, PROMPTS).masks
        assert found.equals(as_masks(maps, (W, H), max_hole=30, max_sprinkle=9))
        assert not found.equals(segmenter.segment(encoded, PROMPTS).masks)

    def test_what_does_not_fit(self, segmenter: SamSegmenter, encoded: SamImage) -> None:
        with pytest.raises(InputError, match=r"one \(16, 16\) or None for each of 1 prompts"):
            segmenter.logits(encoded, PROMPTS[:1], previous=[np.zeros((4, 4), np.float32)])
        with pytest.raises(InputError, match="another segmenter"):
            segmenter.segment(SamImage((W, H), encoded.features, segmenter.decoder), PROMPTS)
        with pytest.raises(ModelError, match="no output image_embedding"):
            SamSegmenter(segmenter.decoder, segmenter.decoder, segmenter.preprocess, segmenter.segmentation)
        with pytest.raises(ModelError, match="uint8-nhwc"):
            SamSegmenter(
                segmenter.encoder, segmenter.decoder,
                replace(segmenter.preprocess, input="uint8-nhwc"), segmenter.segmentation,
            )  # fmt: skip


def test_pictures_together(segmenter: SamSegmenter) -> None:
    several = [photo(i) for i in range(3)]
    for image, kept in zip(several, segmenter.encode(several), strict=True):
        alone = segmenter.segment(segmenter.encode([image])[0], PROMPTS)
        assert (np.diag(segmenter.segment(kept, PROMPTS).masks.iou(alone.masks)) > 0.99).all()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision(folder: Path, segmenter: SamSegmenter, encoded: SamImage, dtype: str) -> None:
    half = load(folder / "mini.safetensors", dtype=dtype)
    kept = half.encode([photo()])[0]
    exact, near = (s.logits(e, PROMPTS, multimask=True).maps for s, e in ((segmenter, encoded), (half, kept)))
    assert np.abs(exact - near).max() < 0.1 * np.abs(exact).max()
    assert half.encoder is not segmenter.encoder


# ---- files ---------------------------------------------------------------------------------------------------


def official(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under the official names, with some of the videos' memory; by the names of tiny's key file."""
    out: dict[str, np.ndarray] = {}
    for name in load_json("keys/sam2.1-tiny.json")["keys"]:
        ours = rename(name)
        row = re.search(r"point_embeddings\.(\d)", name)
        if row:
            out[name] = state["prompt_encoder.point_embed.weight"][[int(row[1])]]
        elif ours in state:
            out[name] = state[ours]
        elif ours is None and "memory_encoder" in name:
            out[name] = np.ones(1, np.float32)
    said = {rename(n) for n in out}
    trunk = "vision_encoder.backbone."
    more = {
        n: a for n, a in state.items() if n.startswith(trunk) and n not in said
    }  # its stages begin elsewhere
    return out | {n.replace(trunk, "image_encoder.trunk."): a for n, a in more.items()}


@pytest.fixture(scope="module")
def state(folder: Path) -> dict[str, np.ndarray]:
    return {n: np.array(a) for n, a in read_checkpoint(folder / "mini.safetensors").state.items()}


class TestFiles:
    def write(self, folder: Path, state: dict[str, np.ndarray], name: str = "own.pt") -> Path:
        (folder / "own.toml").write_text(mini.card().to_toml())
        torch.save({"model": {n: torch.from_numpy(a) for n, a in state.items()}}, folder / name)
        return folder / name

    def test_official(
        self, tmp_path: Path, state: dict[str, np.ndarray], segmenter: SamSegmenter, encoded: SamImage
    ) -> None:
        other = load(self.write(tmp_path, official(state)))
        kept = other.encode([photo()])[0]
        assert np.array_equal(other.logits(kept, PROMPTS).maps, segmenter.logits(encoded, PROMPTS).maps)

    def test_one_matrix_for_both_places(self, tmp_path: Path, state: dict[str, np.ndarray]) -> None:
        one = {n: a for n, a in state.items() if n != "prompt_encoder.shared_embedding.positional_embedding"}
        load(self.write(tmp_path, one))

    def test_missing_and_unexpected_are_named(self, tmp_path: Path, state: dict[str, np.ndarray]) -> None:
        own = official(state)
        del own["sam_mask_decoder.iou_token.weight"]
        own["sam_mask_decoder.extra.weight"] = own["surprise"] = np.ones(1, np.float32)
        own["no_mem_embed"] = np.ones((1, 1, 5), np.float32)
        with pytest.raises(ModelError) as e:
            load(self.write(tmp_path, own))
        for told in (
            "1 missing: mask_decoder.iou_token.weight", "2 unexpected: ", "mask_decoder.extra.weight", "surprise",
            "no_memory_embedding is (1, 1, 5), expected (1, 1, 256)",
        ):  # fmt: skip
            assert told in str(e.value)

    def test_rows_are_named(self, tmp_path: Path, state: dict[str, np.ndarray]) -> None:
        own = official(state)
        del own["sam_prompt_encoder.point_embeddings.2.weight"]
        with pytest.raises(ModelError, match=r"1 missing: sam_prompt_encoder\.point_embeddings\.2\.weight"):
            load(self.write(tmp_path, own))

    def test_twice(self, tmp_path: Path, state: dict[str, np.ndarray]) -> None:
        own = official(state) | {"no_memory_embedding": state["no_memory_embedding"]}
        with pytest.raises(ModelError, match="both mean 'no_memory_embedding'"):
            load(self.write(tmp_path, own))

    def test_bare_files_are_recognised(self) -> None:
        def bare(name: str) -> Checkpoint:
            keys = load_json(f"keys/{name}.json")["keys"]
            return Checkpoint(
                Path("x.pt"), {n: np.broadcast_to(np.float32(0), s) for n, (_, s) in keys.items()}
            )

        assert infer_card(bare("sam2.1-tiny")).name == "sam2.1-tiny"
        assert infer_card(bare("sam2.1-large")).name == "sam2.1-large"
        with pytest.raises(ModelError, match=r"several models \(sam-pose2seg-b\+, sam2.1-base-plus\)"):
            infer_card(bare("sam2.1-base-plus"))


def test_the_same_weights_are_kept_once(folder: Path) -> None:
    first, second = (load(folder / "mini.safetensors") for _ in range(2))
    assert first.encoder is second.encoder and first.decoder is second.decoder


def test_what_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="'pmpose-n' is no segmenter but a pose model"):
        load_segmenter("pmpose-n")
    with pytest.raises(InputError, match="threads is for ONNX"):
        load_segmenter(folder / "mini.safetensors", threads=1)
    monkeypatch.setitem(sys.modules, "transformers", None)
    clear_models()
    with pytest.raises(MissingDependency, match=r"pip install 'bodyloop\[sam\]'"):
        load_segmenter(folder / "mini.safetensors")


def test_cards() -> None:
    cards = {
        c.name: c for c in list_models("segmenter") if c.segmentation and c.segmentation.method == "points"
    }
    assert set(cards) == {
        *(f"sam2.1-{s}" for s in ("tiny", "small", "base-plus", "large")),
        "sam-pose2seg-b+",
    }
    for name, c in cards.items():
        assert c.preprocess.size == (1024, 1024) and c.preprocess.input == "float32-nchw"
        assert c.segmentation is not None and c.weights is not None and c.weights.repository is not None
        assert (c.segmentation.max_hole_area, c.segmentation.max_sprinkle_area) == (0, 0)
        assert c.licenses.copyleft == (name == "sam-pose2seg-b+")
        assert c.summary and c.notes and c.training_data and c.known_failures
    assert cards["sam-pose2seg-b+"].weights == replace(
        cards["sam-pose2seg-b+"].weights,
        repository="vrg-prague/BBoxMaskPose",
        file="SAM-pose2seg_hiera_b+.pt",
    )
    assert find_card("SAM_pose2seg") == cards["sam-pose2seg-b+"]


def test_an_address_writes_plus_as_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("BODYLOOP_MODELS", raising=False)
    from bodyloop.models import hub

    with pytest.raises(ModelError, match=r"SAM-pose2seg_hiera_b%2B\.pt"):
        hub.fetch(find_card("sam-pose2seg-b+"), cache=tmp_path, endpoint="http://127.0.0.1:9")


# ---- export --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bodyloop.cli import app

    out = tmp_path_factory.mktemp("onnx") / "mini"
    done = CliRunner().invoke(app, ["export", str(folder / "mini.safetensors"), str(out), "--full", "--json"])
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.slow
class TestExport:
    def test_as_torch_does(self, exported: Path, segmenter: SamSegmenter, encoded: SamImage) -> None:
        onnx = load(exported)
        assert type(onnx.encoder).__name__ == "OnnxEngine" and str(onnx) == mini.NAME
        several = onnx.encode([photo(1), photo()])
        found, expected = onnx.logits(several[1], PROMPTS), segmenter.logits(encoded, PROMPTS)
        assert np.abs(found.maps - expected.maps).max() < 1e-3
        assert np.abs(found.scores - expected.scores).max() < 1e-5
        three = onnx.logits(
            several[1], PROMPTS, multimask=True, previous=[None, found.maps[1, 0], *[None] * 4]
        )
        told = segmenter.logits(
            encoded, PROMPTS, multimask=True, previous=[None, found.maps[1, 0], *[None] * 4]
        )
        assert np.abs(three.maps - told.maps).max() < 1e-3
        masks = [s.segment(e, PROMPTS).masks for s, e in ((onnx, several[1]), (segmenter, encoded))]
        assert (np.diag(masks[0].iou(masks[1])) > 0.999).all()

    def test_without_torch(self, exported: Path) -> None:
        import subprocess

        code = (
            "import sys\nfor m in ('torch', 'transformers', 'onnx'): sys.modules[m] = None\n"
            "import numpy as np\nfrom bodyloop.api import load_segmenter\nfrom bodyloop.images import Image\n"
            "from bodyloop.roles import Prompt\n"
            f"s = load_segmenter({str(exported)!r}, threads=1)\n"
            "e = s.encode([Image(np.zeros((30, 40, 3), np.uint8))])[0]\n"
            "print(len(s.segment(e, [Prompt([[5, 5]], [1]), Prompt([], [], [1, 2, 30, 20])])))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.split() == ["2"], done.stderr

    def test_both_files_are_needed(self, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "encoder.onnx").write_bytes((exported / "encoder.onnx").read_bytes())
        with pytest.raises(
            FileError, match=r"decoder\.onnx is missing: encoder and decoder lie side by side"
        ):
            load_segmenter(tmp_path)

    def test_refusals(self, exported: Path, folder: Path, tmp_path: Path) -> None:
        from bodyloop.cli import app

        def export(*arguments: str) -> str:
            done = CliRunner().invoke(app, ["export", *arguments])
            assert done.exit_code != 0
            return done.output + str(done.exception)

        weights = str(folder / "mini.safetensors")
        assert "allow --overwrite" in export(weights, str(exported))
        assert "does not end in .onnx" in export(weights, str(tmp_path / "one.onnx"))
        assert "--int8 is for models of one file" in export(weights, str(tmp_path / "out"), "--int8")
        assert "must end in .onnx" in export("pmpose-n", str(tmp_path / "out"))
