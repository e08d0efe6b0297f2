"""Checkpoints of guided-diffusion: what is inferred, what is refused, and that the networks compute the same."""

import importlib.util
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tumorcast.diffusion.sampler import Encodings, MemberTargets, sample
from tumorcast.durable import sha256_of
from tumorcast.engines.locating import runs_in
from tumorcast.engines.model import load_model_set
from tumorcast.engines.protocol import EngineWrapper
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import InputError, TumorcastError, UsageError
from tumorcast.records import Contrast
from tumorcast.settings import Architecture, NetworkKind, SamplerSettings
from tumorcast.training.adm_shapes import check_same, infer_denoiser, infer_regressor
from tumorcast.training.checkpoint import save_tensors
from tumorcast.training.import_adm import ImportSettings, expected_shapes, import_adm
from tumorcast.training.networks import build, default_architecture, load_network
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo, read_run_info

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "reference" / "adm.py"
TIMES = torch.tensor([3, 151])
CLASSES = torch.tensor([1, 0])


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adm_reference", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adm = _reference()
PAPER_MULT = (1, 1, 2, 2, 4, 4)
PLAIN = adm.Form()
PAPERLIKE = adm.Form(out_channels=8, classes=2)
POOLED = adm.Form(out_channels=1, mult=(1, 2, 4), attention=(2, 4), head_channels=64, scale_shift=True, updown=True)
LOOPED, LOOPED_POOL = replace(PAPERLIKE, res_blocks=1), replace(POOLED, res_blocks=1, pool_silu=False)  # quicker


def images(form: Any, seed: int = 0) -> Tensor:
    shape = (2, form.in_channels, form.image_size, form.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def unet_of(form: Any, seed: int = 1) -> Any:
    weights = adm.Weights(seed)
    adm.unet(weights, form, images(form), TIMES, CLASSES)
    return weights


@cache
def encoder_of(form: Any, seed: int = 2) -> Any:
    weights = adm.Weights(seed)
    adm.encoder(weights, form, images(form), TIMES)
    return weights


def saved(path: Path, content: Any) -> Path:
    torch.save(dict(content) if isinstance(content, adm.Weights) else content, path)
    return path


def assert_same_but_for_rounding(ours: Tensor, single: Tensor, exact: Tensor) -> None:
    """Ours is at most three times as far from the result in float64 as the reference in float32, and that is near."""
    rounding, scale = (single - exact).abs().max(), exact.abs().max()
    assert rounding <= 1e-5 * scale
    assert (ours - exact).abs().max() <= 3 * rounding


@pytest.mark.parametrize(
    "form",
    [
        PLAIN,
        PAPERLIKE,
        adm.Form(scale_shift=True, updown=True, attention=(2, 4), head_channels=32, mult=(1, 2, 3)),
        adm.Form(updown=True, res_blocks=1, attention=(), classes=5, in_channels=2, out_channels=4),
        adm.Form(scale_shift=True, out_channels=8, mult=(2, 1), res_blocks=3, attention=(1,), classes=2),
        adm.Form(mult=(2,), res_blocks=1, attention=(), in_channels=1, out_channels=1),
    ],
    ids=["plain", "paper-like", "all-options", "no-attention", "first-level-wider", "one-level"],
)
def test_a_denoiser_computes_what_the_reference_does(form: Any, tmp_path: Path) -> None:
    weights, x = unet_of(form), images(form, seed=5)
    settings = ImportSettings(
        image_size=form.image_size,
        contrasts=("t1n", "t1c", "t2w", "t2f")[: form.in_channels],
        denoiser_head_channels=form.head_channels,
    )
    import_adm(saved(tmp_path / "model.pt", weights), None, tmp_path / "run", settings)
    network = load_network(tmp_path / "run" / "denoiser")
    assert network.info.kind is NetworkKind.DENOISER
    assert network.info.architecture == architecture_of(form)
    exact = adm.unet(weights.double(), form, x.double(), TIMES, CLASSES)
    assert_same_but_for_rounding(network.module(x, TIMES, CLASSES), adm.unet(weights, form, x, TIMES, CLASSES), exact)


@pytest.mark.parametrize(
    "form",
    [
        POOLED,
        replace(POOLED, updown=False, scale_shift=False, head_channels=32, attention=(1,), res_blocks=1),
        replace(POOLED, mult=(1, 1, 2, 2), res_blocks=4, attention=(8,), image_size=64),
        replace(POOLED, attention=(), res_blocks=3),
        replace(POOLED, pool_silu=False),
    ],
    ids=["paper-like", "convolutions", "deep", "no-attention", "the-authors-pool"],
)
def test_a_regressor_computes_what_the_reference_does(form: Any, tmp_path: Path) -> None:
    weights, x = encoder_of(form), images(form, seed=6)
    settings = ImportSettings(image_size=form.image_size, regressor_head_channels=form.head_channels)
    import_adm(None, saved(tmp_path / "model.pt", weights), tmp_path / "run", settings)
    network = load_network(tmp_path / "run" / "regressor")
    assert network.info.kind is NetworkKind.ATTENTION_POOL_REGRESSOR
    assert network.info.architecture == architecture_of(form)
    exact = adm.encoder(weights.double(), form, x.double(), TIMES)[:, 0]
    ours = network.module(x, TIMES, torch.ones_like(x[:, 0]))
    assert_same_but_for_rounding(ours, adm.encoder(weights, form, x, TIMES)[:, 0], exact)


def architecture_of(form: Any) -> Architecture:
    return Architecture(
        image_size=form.image_size,
        in_channels=form.in_channels,
        out_channels=form.out_channels,
        channels=form.channels,
        channel_mult=form.mult,
        res_blocks=form.res_blocks,
        attention_resolutions=tuple(form.image_size // rate for rate in form.attention),
        head_channels=form.head_channels,
        classes=form.classes,
        scale_shift_norm=form.scale_shift,
        resblock_updown=form.updown,
        pool_activation=form.pool_silu,
    )


class Recorder(EngineWrapper):
    """An engine that keeps every x it gives."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__(engine)
        self.trace: list[np.ndarray] = []

    def encode_step(self, *arguments: Any) -> Any:
        return self._kept(super().encode_step(*arguments))

    def guided_step(self, *arguments: Any) -> Any:
        return self._kept(super().guided_step(*arguments))

    def _kept(self, result: Any) -> Any:
        self.trace.append(np.array(result[0]))
        return result


def test_the_papers_loop_over_imported_networks_is_the_reference_at_every_step(tmp_path: Path) -> None:
    """Within 5e-6 of the largest number in x (measured: 6e-7, some five units of float32's last place) of the loop in
    float64, at every step. In float32 the original itself is 6e-5 off: it rounds ᾱ before it subtracts it from 1.
    """
    level, scale = 12, 2e4
    present, change = 0.1, np.array([0.05, -0.02], np.float32)
    denoiser, regressor = unet_of(LOOPED), encoder_of(LOOPED_POOL)
    import_adm(
        saved(tmp_path / "d.pt", denoiser), saved(tmp_path / "r.pt", regressor), tmp_path / "run", ImportSettings()
    )
    image, noise = 0.4 * images(LOOPED, seed=7)[:1], images(LOOPED, seed=8)
    recorder = Recorder(engine_of(tmp_path / "run"))
    ones = np.ones((2, 32, 32), np.float32)
    encodings = Encodings(
        np.repeat(image.numpy(), 2, 0), noise.numpy(), np.full(2, present, np.float32), ones, np.zeros(2, int)
    )
    settings = SamplerSettings.paper(noise_level=level, scale=scale)
    last = sample(recorder, encodings, MemberTargets(np.arange(2), change, ones), settings, batch=2)
    loop = loop_of(denoiser, regressor, image, noise, level=level, target=torch.from_numpy(present + change))
    single, exact, unguided = loop(scale), loop(scale, exact=True), loop(0.0)
    assert len(recorder.trace) == len(single) - 1 == 2 * (level - 1)
    np.testing.assert_array_equal(recorder.trace[-1], last)
    for ours, theirs, truth in zip(recorder.trace, single[1:], exact[1:], strict=True):
        assert_near(torch.from_numpy(ours), truth, 5e-6)
        assert_near(theirs, truth, 1e-4)
    assert float((single[-1] - unguided[-1]).abs().max()) > 0.1  # or the guidance would not have been compared


def assert_near(x: Tensor, truth: Tensor, relative: float) -> None:
    assert (x - truth).abs().max() <= relative * truth.abs().max()


def engine_of(run: Path) -> TorchEngine:
    """The imported networks, and an untrained segmenter, which an engine needs and this loop does not ask."""
    arch = default_architecture(NetworkKind.SEGMENTER, image_size=32, contrasts=4)
    save_tensors(run / "segmenter" / WEIGHTS_FILE, build(NetworkKind.SEGMENTER, arch).state_dict(), {})
    info = RunInfo(NetworkKind.SEGMENTER, arch, tuple(map(str, Contrast)), 20, {})
    (run / "segmenter" / RUN_FILE).write_text(info.to_json(None))
    return TorchEngine(load_model_set([run]))


def loop_of(denoiser: Any, regressor: Any, image: Tensor, noise: Tensor, *, level: int, target: Tensor) -> Any:
    def loop(scale: float, *, exact: bool = False) -> list[Tensor]:
        kind = torch.float64 if exact else torch.float32
        d, r = (w.double() if exact else w for w in (denoiser, regressor))
        return adm.paper_loop(
            lambda x, t: adm.unet(d, LOOPED, x, t, torch.ones_like(t)),
            lambda x, t: adm.encoder(r, LOOPED_POOL, x, t),
            image.to(kind),
            noise.to(kind),
            level=level,
            scale=scale,
            target=target.to(kind),
        )

    return loop


def test_what_is_written_tells_where_it_came_from(tmp_path: Path) -> None:
    denoiser, regressor = saved(tmp_path / "ema.pt", unet_of(PAPERLIKE)), saved(tmp_path / "r.pt", encoder_of(POOLED))
    settings = ImportSettings(noise_levels=300, contrasts=("t2f", "t1n", "t1c", "t2w"))
    import_adm(denoiser, regressor, tmp_path / "run", settings)
    assert [run.name for run in runs_in(tmp_path / "run")] == ["denoiser", "regressor"]
    info = read_run_info(tmp_path / "run" / "denoiser")
    assert (info.noise_levels, info.contrasts) == (300, ("t2f", "t1n", "t1c", "t2w"))
    assert info.provenance["imported"] == "adm"
    assert (info.provenance["source"], info.provenance["source_sha256"]) == ("ema.pt", sha256_of(denoiser))
    assert info.architecture.image_size == 32  # as the regressor's pool tells
    assert sorted(path.name for path in (tmp_path / "run").rglob("*.*")) == 2 * ["run.json"] + 2 * [
        "weights.safetensors"
    ]


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}, lambda s: {"ema": s}]
)
def test_wrapped_and_parallel_state_dicts_are_unwrapped(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    weights = OrderedDict((f"module.{name}", value) for name, value in unet_of(PLAIN).items())
    import_adm(saved(tmp_path / "m.pt", wrap(weights)), None, tmp_path / "run", ImportSettings(image_size=32))
    assert_holds(tmp_path / "run" / "denoiser", unet_of(PLAIN))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_becomes_float32(kind: torch.dtype, tmp_path: Path) -> None:
    """As guided-diffusion's use_fp16 does, the blocks alone are in half precision here."""
    weights = {name: value.to(kind) if "blocks" in name else value for name, value in unet_of(PLAIN).items()}
    import_adm(saved(tmp_path / "m.pt", weights), None, tmp_path / "run", ImportSettings(image_size=32))
    assert_holds(tmp_path / "run" / "denoiser", {name: value.float() for name, value in weights.items()})


def test_parameters_and_views_of_one_storage_are_read(tmp_path: Path) -> None:
    weights = unet_of(PLAIN)
    flat = torch.cat([value.flatten() for value in weights.values()])
    parts = flat.split([value.numel() for value in weights.values()])
    views = {name: torch.nn.Parameter(part.view_as(weights[name])) for name, part in zip(weights, parts, strict=True)}
    import_adm(saved(tmp_path / "m.pt", views), None, tmp_path / "run", ImportSettings(image_size=32))
    assert_holds(tmp_path / "run" / "denoiser", weights)


def assert_holds(run: Path, weights: dict[str, Tensor]) -> None:
    state = load_network(run).module.state_dict()
    assert set(state) == set(weights)
    assert all(value.dtype is torch.float32 and torch.equal(value, weights[name]) for name, value in state.items())


def test_an_encoder_without_attention_needs_the_size_where_several_fit(tmp_path: Path) -> None:
    """Five blocks of one width: two levels of two residual blocks, or three of one, or one of five."""
    form = replace(POOLED, mult=(2, 2), attention=(), image_size=16)
    path = saved(tmp_path / "m.pt", encoder_of(form))
    with pytest.raises(UsageError, match=r"8 or 16 or 32 px .*--image-size"):
        import_adm(None, path, tmp_path / "run", ImportSettings())
    (network,) = import_adm(None, path, tmp_path / "run", ImportSettings(image_size=16))
    assert network.info.architecture == architecture_of(form)


def refused(error: type[TumorcastError], tmp_path: Path, **given: Any) -> str:
    """The message of an import that is refused; nothing may be left behind."""
    settings = ImportSettings(**{"image_size": 32} | given.pop("settings", {}))
    paths = {name: saved(tmp_path / f"{name}.pt", content) for name, content in given.items()}
    with pytest.raises(error) as caught:
        import_adm(paths.get("denoiser"), paths.get("regressor"), tmp_path / "run", settings)
    assert type(caught.value) is error
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def changed(weights: Any, **shapes: tuple[int, ...] | None) -> dict[str, Tensor]:
    """The weights with others in place of some (`__` for a dot), or without them."""
    new = {name.replace("__", "."): shape for name, shape in shapes.items()}
    kept = {name: value for name, value in weights.items() if name not in new}
    return kept | {name: torch.zeros(shape) for name, shape in new.items() if shape is not None}


def without(weights: Any, *parts: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3.0, "denoiser.pt: holds a float, expected parameters by name; save the weights alone"),
        ([torch.ones(1)], "holds a list, expected parameters by name"),
        ({}, "holds nothing, expected"),
        ({"state": {}, "param_groups": []}, "holds nothing as 'state', expected"),
        ({"model": {"a": 1}}, "holds a int as 'a', expected"),
        ({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "holds 2 networks (model, ema); save the one"),
        ({3: torch.ones(1)}, "holds a Tensor as 3, expected"),
        ({"a": torch.ones(1)}, "no output_blocks, so it is no U-Net of openai/guided-diffusion"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    assert message in refused(InputError, tmp_path, denoiser=content)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    """A whole module, as torch.save(network) writes it, would run code when it is read."""
    told = refused(InputError, tmp_path, denoiser=torch.nn.Linear(1, 1))
    assert "denoiser.pt: not a checkpoint of plain tensors (UnpicklingError), and nothing else is unpickled" in told
    assert "torch.save(network.state_dict(), 'model.pt')" in told


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.pt: not a checkpoint"):
        import_adm(tmp_path / "m.pt", None, tmp_path / "run", ImportSettings(image_size=32))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.pt: cannot be read"):
        import_adm(tmp_path / "m.pt", None, tmp_path / "run", ImportSettings(image_size=32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: changed(unet_of(PLAIN), middle_block__1__norm__bias=None),
            "missing: middle_block.1.norm.bias; it must",
        ),
        (
            lambda: changed(
                unet_of(PLAIN), extra=(1,), **dict.fromkeys(("out__0__weight", "out__0__bias", "out__2__bias"))
            ),
            "parameters missing: out.0.weight, out.0.bias, out.2.bias; unknown: extra; it must be the whole state dict",
        ),
        (
            lambda: without(unet_of(PLAIN), "emb_layers.1.bias", "out_layers.0.bias"),
            ", input_blocks.1.0.out_layers.0.bias, ",
        ),
        (lambda: without(unet_of(PLAIN), "emb_layers.1.bias"), "input_blocks.4.0.emb_layers.1.bias and "),
        (
            lambda: changed(unet_of(PLAIN), middle_block__0__in_layers__2__weight=(64, 32, 3, 3)),
            "middle_block.0.in_layers.2.weight: shape (64, 32, 3, 3), expected (64, 64, 3, 3); the network is",
        ),
        (
            lambda: {name: value[..., None] if value.ndim == 4 else value for name, value in unet_of(PLAIN).items()},
            "input_blocks.1.0.in_layers.2.weight: shape (32, 32, 3, 3, 1), expected 4 axes; networks are of 2D images",
        ),
        (lambda: changed(unet_of(PLAIN), time_embed__0__weight=None), "no time_embed.0.weight; it must be the whole"),
        (
            lambda: without(unet_of(PLAIN), ".op.", ".conv."),
            "input_blocks.3 has no parameters; halving without weights (conv_resample=False) is not in",
        ),
        (lambda: changed(unet_of(PLAIN), time_embed__0__weight=(64, 16)), "16 channels, expected a multiple of 32"),
        (
            lambda: changed(unet_of(PLAIN), time_embed__0__weight=(256, 64)),
            "input_blocks.1 is 32 wide, expected a multiple of the network's 64",
        ),
        (
            lambda: unet_of(adm.Form(out_channels=3)),
            "out.2.weight: 3 channels out for 4 in; a denoiser has as many, or twice",
        ),
        (lambda: unet_of(adm.Form(out_channels=3, in_channels=6)), "out.2.weight: 3 channels out for 6 in"),
        (
            lambda: changed(unet_of(PLAIN), label_emb__weight=(1, 128)),
            "label_emb.weight: 1 class; class 1 is that of slices",
        ),
        (lambda: changed(unet_of(PLAIN), out__0__bias=(16,)), "out.0.bias: shape (16,), expected (32,)"),
        (lambda: encoder_of(POOLED), "no output_blocks, so it is no U-Net"),
        (
            lambda: changed(unet_of(PLAIN), input_blocks__1__0__op__weight=(32, 32, 3, 3)),
            "its first level has no residual block before it is halved; it must be a network of openai/guided",
        ),
        (lambda: unet_of(PLAIN) | {"out.0.bias": torch.full((32,), torch.nan)}, "out.0.bias: has NaN or infinite"),
        (
            lambda: unet_of(PLAIN) | {"out.0.bias": torch.ones(32, dtype=torch.int64)},
            "out.0.bias: torch.int64 in layout torch.strided, expected dense real numbers; save the weights alone",
        ),
        (
            lambda: unet_of(PLAIN) | {"out.0.bias": torch.ones(32).to_sparse()},
            "in layout torch.sparse_coo, expected dense",
        ),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(content: Callable[[], Any], message: str, tmp_path: Path) -> None:
    told = refused(InputError, tmp_path, denoiser=content())
    assert told.startswith(f"{tmp_path / 'denoiser.pt'}: ")
    assert message in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: unet_of(PLAIN), "has output_blocks, so it is a U-Net and no encoder; give it as --denoiser"),
        (
            lambda: without(encoder_of(POOLED), "out.2.") | {"out.3.weight": torch.zeros(1, 128, 1, 1)},
            "its pool is an average (pool='adaptive', out.3); tumorcast's regressor has EncoderUNetModel's",
        ),
        (
            lambda: without(encoder_of(POOLED), "out.") | {"out.0.weight": torch.zeros(2048, 700)},
            "its pool is linear over the means of all blocks (pool='spatial'); ",
        ),
        (lambda: without(encoder_of(POOLED), "out."), "no out.2.positional_embedding; tumorcast's regressor has"),
        (
            lambda: changed(encoder_of(POOLED), out__2__positional_embedding=(128, 66)),
            "out.2.positional_embedding: 66 columns, expected 1 + a square, that of the map's side",
        ),
        (
            lambda: changed(encoder_of(POOLED), out__2__positional_embedding=(128, 0)),
            "0 columns, expected 1 + a square",
        ),
        (
            lambda: encoder_of(replace(POOLED, out_channels=2)),
            "out.2.c_proj.weight: 2 outputs; a regressor of size has 1",
        ),
        (
            lambda: without(encoder_of(POOLED), "input_blocks.8."),
            "its 7 input blocks are not in levels alike, as those of openai/guided-diffusion are",
        ),
        (
            lambda: changed(encoder_of(POOLED), label_emb__weight=(2, 128)),
            "parameters unknown: label_emb.weight; it must",
        ),
    ],
)
def test_a_regressor_that_does_not_fit_is_refused(content: Callable[[], Any], message: str, tmp_path: Path) -> None:
    assert message in refused(InputError, tmp_path, regressor=content())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 64}, "regressor.pt: --image-size 64: its pool of 8×8 is of 32 px images; leave out"),
        ({"regressor_head_channels": 48}, "--regressor-head-channels 48: input_blocks.4.1.qkv.weight is 64 wide; give"),
        ({"denoiser_head_channels": 48}, "--denoiser-head-channels 48: input_blocks.7.1.qkv.weight is 64 wide; give"),
        (
            {"contrasts": ("t1c", "t2f")},
            "regressor.pt: takes 4 channels, but --contrasts t1c,t2f names 2; name one for each channel",
        ),
    ],
)
def test_options_that_contradict_the_weights_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    told = refused(UsageError, tmp_path, denoiser=unet_of(PAPERLIKE), regressor=encoder_of(POOLED), settings=settings)
    assert message in told


def test_options_that_do_not_suffice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--denoiser, --regressor"):
        import_adm(None, None, tmp_path / "run", ImportSettings())
    with pytest.raises(UsageError, match=r"m\.pt: .*--image-size 256"):
        import_adm(tmp_path / "m.pt", None, tmp_path / "run", ImportSettings())
    with pytest.raises(UsageError, match="image_size = 30"):
        import_adm(saved(tmp_path / "m.pt", unet_of(PLAIN)), None, tmp_path / "run", ImportSettings(image_size=30))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="--contrasts t1c,t1c"):
        ImportSettings.of({"contrasts": ("t1c", "t1c")}, "tumorcast import-adm")
    with pytest.raises(UsageError, match="noise_levels = 1001"):
        ImportSettings.of({"noise_levels": 1001}, "tumorcast import-adm")


def test_a_folder_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    path, out = saved(tmp_path / "m.pt", unet_of(PLAIN)), tmp_path / "run"
    out.mkdir()
    (out / "note").write_text("mine")
    with pytest.raises(InputError, match="run: not empty"):
        import_adm(path, None, out, ImportSettings(image_size=32))
    assert [p.name for p in out.iterdir()] == ["note"]
    with pytest.raises(InputError, match="note: cannot be written"):
        import_adm(path, None, out / "note", ImportSettings(image_size=32))
    (out / "note").unlink()
    import_adm(path, None, out, ImportSettings(image_size=32))
    assert (out / "denoiser" / "run.json").is_file()


def test_the_papers_networks_are_recognised_by_shape_alone() -> None:
    """256 px, 113.7 and 5.5 million parameters: too large to make here, and shapes are all that is looked at."""
    unet = adm.Form(256, out_channels=8, channels=128, mult=PAPER_MULT, attention=(16,), classes=2)
    shapes = outline_of(partial(adm.unet, y=torch.zeros(1, dtype=torch.long, device="meta")), unet)
    assert round(sum(map(math.prod, shapes.values())) / 1e6, 1) == 113.7
    found = infer_denoiser(shapes, image_size=256, head_channels=None)
    assert found == architecture_of(unet)
    check_same(shapes, expected_shapes(NetworkKind.DENOISER, found))
    pool = replace(POOLED, image_size=256, mult=PAPER_MULT, res_blocks=4, attention=(8, 16, 32))
    shapes = outline_of(adm.encoder, pool)
    assert round(sum(map(math.prod, shapes.values())) / 1e6, 1) == 5.5
    found = infer_regressor(shapes, image_size=None, head_channels=64)
    assert found == architecture_of(pool)
    check_same(shapes, expected_shapes(NetworkKind.ATTENTION_POOL_REGRESSOR, found))


def outline_of(network: Callable[..., Tensor], form: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the reference's parameters, of which none is made."""
    weights = adm.Outline()
    x = torch.empty((1, 4, form.image_size, form.image_size), device="meta")
    network(weights, form, x, torch.zeros(1, device="meta"))
    return {name: tuple(value.shape) for name, value in weights.items()}


def test_the_command_prints_what_it_inferred(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tumorcast.cli.main import app

    paths = [saved(tmp_path / "d.pt", unet_of(PAPERLIKE)), saved(tmp_path / "r.pt", encoder_of(POOLED))]
    arguments = ["--denoiser", paths[0], "--regressor", paths[1], "--out", tmp_path / "run", "--json"]
    app(["import-adm", *map(str, arguments)], standalone_mode=False)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["out"] == str(tmp_path / "run")
    assert told["denoiser"]["parameters"] == sum(value.numel() for value in unet_of(PAPERLIKE).values())
    assert told["denoiser"]["out_channels"] == 8
    assert told["regressor"]["image_size"] == 32
