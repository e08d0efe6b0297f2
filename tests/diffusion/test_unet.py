"""Shapes and the names and numbers of parameters of openai/guided-diffusion."""

import pytest
import torch

from tumorcast.diffusion.unet import EncoderRegressor, UNet
from tumorcast.errors import UsageError
from tumorcast.settings import Architecture

SMALL = Architecture(image_size=16, channel_mult=(1, 2), res_blocks=1, attention_resolutions=(8,), classes=2)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
def test_paper_size_networks_have_the_published_number_of_parameters() -> None:
    """113.7 M and 5.5 M: what the authors' settings give in the original code."""
    with torch.device("meta"):
        unet = UNet(
            Architecture(
                image_size=256,
                out_channels=8,
                channels=128,
                channel_mult=(1, 1, 2, 2, 4, 4),
                attention_resolutions=(16,),
                classes=2,
            )
        )
        regressor = EncoderRegressor(
            Architecture(
                image_size=256,
                out_channels=1,
                channel_mult=(1, 1, 2, 2, 4, 4),
                res_blocks=4,
                attention_resolutions=(32, 16, 8),
                head_channels=64,
                scale_shift_norm=True,
                resblock_updown=True,
            )
        )
    assert round(count(unet) / 1e6, 1) == 113.7
    assert round(count(regressor) / 1e6, 1) == 5.5


def test_parameter_names_are_those_of_guided_diffusion() -> None:
    names = set(UNet(SMALL).state_dict())
    expected = {
        "time_embed.0.weight",
        "label_emb.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "input_blocks.1.0.out_layers.3.weight",
        "input_blocks.2.0.op.weight",
        "input_blocks.3.0.skip_connection.weight",
        "input_blocks.3.1.norm.weight",
        "input_blocks.3.1.qkv.weight",
        "input_blocks.3.1.proj_out.weight",
        "middle_block.1.qkv.weight",
        "middle_block.2.out_layers.0.bias",
        "output_blocks.1.2.conv.weight",
        "output_blocks.3.0.skip_connection.bias",
        "out.0.weight",
        "out.2.weight",
    }
    assert expected <= names
    assert {"out.2.positional_embedding", "out.2.qkv_proj.weight", "out.2.c_proj.bias"} <= set(
        EncoderRegressor(SMALL.model_copy(update={"classes": None, "out_channels": 1})).state_dict()
    )


@pytest.mark.parametrize("updown", [False, True])
def test_output_has_the_size_of_the_input(updown: bool) -> None:
    arch = SMALL.model_copy(update={"resblock_updown": updown, "scale_shift_norm": updown, "out_channels": 3})
    x = torch.randn(2, 4, 16, 16)
    assert UNet(arch)(x, torch.tensor([3, 4]), torch.tensor([0, 1])).shape == (2, 3, 16, 16)


@pytest.mark.slow
def test_class_changes_the_output_once_the_last_layer_is_not_zero() -> None:
    torch.manual_seed(0)
    unet = UNet(SMALL)
    torch.nn.init.normal_(unet.out[2].weight)
    for block in unet.modules():
        if hasattr(block, "out_layers"):
            torch.nn.init.normal_(block.out_layers[3].weight)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([10])
    assert not torch.allclose(unet(x, t, torch.tensor([0])), unet(x, t, torch.tensor([1])))
    assert not torch.allclose(unet(x, t, torch.tensor([0])), unet(x, t + 50, torch.tensor([0])))


def test_a_side_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UsageError, match="image_size = 30 "):
        Architecture.of({"image_size": 30}, "run.json")
