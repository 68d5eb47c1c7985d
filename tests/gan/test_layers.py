"""Layers against naive loops."""

import math

import numpy as np
import pytest
import torch
from test_operators import naive_filter

from gandl.gan._layers import (
    EqualConv2d,
    EqualLinear,
    ModulatedConv2d,
    block_widths,
    channels_at,
    leaky_relu,
    minibatch_stddev,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_conv(image, weight, padding=1, stride=1):
    """(n_in, H, W) by (n_out, n_in, k, k), one output pixel at a time."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[-1]
    height, width = ((extent - k) // stride + 1 for extent in padded.shape[1:])
    out = np.zeros((len(weight), height, width))
    for o in range(len(weight)):
        for i in range(height):
            for j in range(width):
                patch = padded[:, i * stride : i * stride + k, j * stride :][:, :, :k]
                out[o, i, j] = (patch * weight[o]).sum()
    return out


def test_channels_follow_base_and_maximum():
    assert [channels_at(r, 1024, 256) for r in (4, 8, 64)] == [256, 128, 16]
    assert block_widths(32, 16384, 512) == {16: 512, 8: 512, 4: 512}


def test_equal_linear_scales_weights_at_run_time():
    layer = EqualLinear(seeded(), 16, 4, bias=1.0, lr_multiplier=0.01)
    # Stored weights are 1 / multiplier larger, so that Adam's steps count less.
    assert 30 < layer.weight.std() < 300
    x = torch.randn(3, 16, generator=seeded(1))
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = x.numpy() @ (weight * 0.01 / math.sqrt(16)).T + bias * 0.01
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(bias * 0.01, 1)


@pytest.mark.parametrize("kernel", [1, 3])
def test_equal_conv_equals_naive_loop(kernel):
    layer = EqualConv2d(seeded(), 2, 3, kernel)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(1, 2, 5, 6, generator=seeded(1))
    weight = layer.weight.detach().numpy() / math.sqrt(2 * kernel**2)
    expected = naive_conv(x[0].numpy(), weight, kernel // 2)
    expected += np.array([1, 2, 3])[:, None, None]
    np.testing.assert_allclose(layer(x)[0].detach(), expected, atol=1e-5)


def test_downsampling_conv_filters_then_strides():
    layer = EqualConv2d(seeded(), 2, 3, 3, down=True, bias=False)
    x = torch.randn(1, 2, 6, 8, generator=seeded(1))
    filtered = np.stack([naive_filter(c.numpy(), 2) for c in x[0]])
    weight = layer.weight.detach().numpy() / math.sqrt(18)
    expected = naive_conv(filtered, weight, padding=0, stride=2)
    assert expected.shape == (3, 3, 4)
    np.testing.assert_allclose(layer(x)[0].detach(), expected, atol=1e-5)


def naive_modulated(layer, x, w, up):
    """Each image convolved by weights of its own, as the paper writes it."""
    out = []
    for image, style in zip(x.numpy(), layer.style(w).detach().numpy(), strict=True):
        weight = layer.weight.detach().numpy() * layer.gain * style[None, :, None, None]
        if layer.demodulate:
            power = (weight**2).sum(axis=(1, 2, 3), keepdims=True)
            weight = weight / np.sqrt(power + 1e-8)
        if not up:
            out.append(naive_conv(image, weight, layer.kernel // 2))
            continue
        spread = np.zeros((len(image), 2 * image.shape[1] - 1, 2 * image.shape[2] - 1))
        spread[:, ::2, ::2] = image
        # A transposed convolution meets the weights turned by half a turn.
        full = naive_conv(spread, weight[:, :, ::-1, ::-1], padding=2)
        out.append(np.stack([4 * naive_filter(c, 1) for c in full]))
    return np.stack(out)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_conv_equals_weights_of_each_image(up, demodulate):
    layer = ModulatedConv2d(seeded(), 2, 3, 3, 5, up=up, demodulate=demodulate)
    x = torch.randn(2, 2, 4, 4, generator=seeded(1))
    w = torch.randn(2, 5, generator=seeded(2))
    expected = naive_modulated(layer, x, w, up)
    assert expected.shape[2:] == ((8, 8) if up else (4, 4))
    np.testing.assert_allclose(layer(x, w).detach(), expected, atol=1e-5)


def test_demodulation_gives_unit_variance():
    layer = ModulatedConv2d(seeded(), 32, 32, 3, 8)
    x = torch.randn(4, 32, 16, 16, generator=seeded(1))
    w = 10 * torch.randn(4, 8, generator=seeded(2))
    assert layer(x, w)[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.1)


def test_leaky_relu_keeps_second_moment():
    x = torch.randn(100_000, generator=seeded())
    assert leaky_relu(x).square().mean().item() == pytest.approx(1.04, abs=0.02)


def test_minibatch_stddev_equals_naive_loop():
    x = torch.randn(8, 3, 2, 2, generator=seeded())
    expected = []
    for start in (0, 4):
        deviation = x[start : start + 4].numpy().std(axis=0)
        expected += [deviation.mean()] * 4
    np.testing.assert_allclose(minibatch_stddev(x)[:, 0, 0, 0], expected, rtol=1e-4)


def test_minibatch_stddev_takes_batches_that_four_does_not_divide():
    x = torch.randn(6, 3, 2, 2, generator=seeded())
    groups = minibatch_stddev(x)[:, 0, 0, 0]
    expected = x[:3].numpy().std(axis=0).mean()
    np.testing.assert_allclose(groups[:3], expected, rtol=1e-4)
    assert minibatch_stddev(x[:1]).item() == pytest.approx(0, abs=1e-3)


def test_layers_compute_in_their_input_type():
    x = torch.randn(2, 4, 8, 8, generator=seeded()).bfloat16()
    assert EqualConv2d(seeded(), 4, 4, 3, down=True)(x).dtype == torch.bfloat16
    w = torch.randn(2, 5, generator=seeded())
    assert ModulatedConv2d(seeded(), 4, 4, 3, 5)(x, w).dtype == torch.bfloat16
