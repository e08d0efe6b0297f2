"""The layers against torch's own, and the published parameter names."""

import torch
from torch.nn import functional

from tumorcast.diffusion.blocks import AttentionBlock, AttentionPool, ResBlock, attend, pointwise, timestep_embedding


def test_timestep_embedding_is_cosines_then_sines_of_geometric_frequencies() -> None:
    embedded = timestep_embedding(torch.tensor([0, 7]), 4)
    frequencies = torch.tensor([1.0, 10_000.0**-0.5])
    torch.testing.assert_close(embedded[1], torch.cat([torch.cos(7 * frequencies), torch.sin(7 * frequencies)]))
    torch.testing.assert_close(embedded[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_attend_is_softmax_attention() -> None:
    q, k, v = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / 5**0.5, dim=-1)
    torch.testing.assert_close(attend(q, k, v), torch.einsum("bts,bcs->bct", weights, v))


def test_pointwise_is_a_convolution_of_width_one() -> None:
    layer = torch.nn.Conv1d(3, 4, 1)
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(pointwise(layer, x), layer(x))


def test_attention_heads_are_split_before_queries_keys_and_values() -> None:
    """ADM's published weights interleave q, k, v by head ("legacy" order): compare with the definition."""
    torch.manual_seed(0)
    block = AttentionBlock(64, 32)
    torch.nn.init.normal_(block.proj_out.weight)
    x = torch.randn(1, 64, 2, 2)
    flat = x.reshape(1, 64, 4)
    qkv = block.qkv(block.norm(flat)).reshape(2, 96, 4)
    q, k, v = qkv.split(32, dim=1)
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / 32**0.5, dim=-1)
    mixed = torch.einsum("bts,bcs->bct", weights, v).reshape(1, 64, 4)
    torch.testing.assert_close(block(x), (flat + block.proj_out(mixed)).reshape(x.shape))


def test_attention_pool_reads_the_query_of_the_mean() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(2, 32, None, 3)
    x = torch.randn(2, 32, 2, 2)
    tokens = (
        torch.cat([x.reshape(2, 32, 4).mean(-1, keepdim=True), x.reshape(2, 32, 4)], -1) + pool.positional_embedding
    )
    q, k, v = functional.conv1d(tokens, pool.qkv_proj.weight, pool.qkv_proj.bias).chunk(3, dim=1)
    weights = torch.softmax(torch.einsum("bc,bcs->bs", q[:, :, 0], k) / 32**0.5, dim=-1)
    pooled = torch.einsum("bs,bcs->bc", weights, v)
    torch.testing.assert_close(pool(x), functional.linear(pooled, pool.c_proj.weight[:, :, 0], pool.c_proj.bias))


def test_a_fresh_residual_block_is_the_identity() -> None:
    block = ResBlock(32, 8, 32, scale_shift=True)
    x = torch.randn(1, 32, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(1, 8)), x)
