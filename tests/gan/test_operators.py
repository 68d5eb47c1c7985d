"""Resampling operators against naive loops, and their derivatives."""

import numpy as np
import pytest
import torch

from gandl.gan._operators import (
    blur,
    downsample,
    downsample_edge,
    upsample,
    upsample_edge,
)

TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def naive_filter(image, padding):
    """Every output pixel as a sum over the 4 x 4 filter, one at a time."""
    padded = np.pad(image, padding)
    height, width = (extent - 3 for extent in padded.shape)
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for k in range(4):
                for m in range(4):
                    out[i, j] += TAPS[k] * TAPS[m] * padded[i + k, j + m]
    return out


def naive_upsample(image):
    """Zeros between the pixels, then the filter with the gain that they take."""
    height, width = image.shape
    spread = np.zeros((2 * height, 2 * width))
    spread[::2, ::2] = image
    # Output pixel i takes taps around i - 1/2: two zeros before, one after.
    padded = np.pad(spread, ((2, 1), (2, 1)))
    return 4 * naive_filter(padded, 0)


@pytest.fixture
def image():
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("padding", [1, 2])
def test_blur_equals_naive_loop(image, padding):
    expected = [[naive_filter(c.numpy(), padding) for c in one] for one in image]
    np.testing.assert_allclose(blur(image, padding), expected, atol=1e-6)


def test_downsample_equals_naive_loop(image):
    expected = [[naive_filter(c.numpy(), 1)[::2, ::2] for c in one] for one in image]
    np.testing.assert_allclose(downsample(image), expected, atol=1e-6)


def test_upsample_equals_naive_loop(image):
    expected = [[naive_upsample(c.numpy()) for c in one] for one in image]
    np.testing.assert_allclose(upsample(image), expected, atol=1e-6)


def test_edge_variants_equal_naive_loops_on_images_continued_beyond_the_border(image):
    wide = np.pad(image, ((0, 0), (0, 0), (4, 4), (4, 4)), mode="edge")
    down = [[naive_filter(c, 1)[::2, ::2][2:-2, 2:-2] for c in one] for one in wide]
    up = [[naive_upsample(c)[8:-8, 8:-8] for c in one] for one in wide]
    np.testing.assert_allclose(downsample_edge(image), down, atol=1e-6)
    np.testing.assert_allclose(upsample_edge(image), up, atol=1e-6)


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: blur(x, 1),
        lambda x: blur(x, 2),
        downsample,
        upsample,
        downsample_edge,
        upsample_edge,
    ],
)
def test_first_and_second_derivatives(operator):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator, x)
    # Squared: a linear operator alone has no second derivative to get wrong.
    assert torch.autograd.gradgradcheck(lambda v: operator(v).square(), x)


def test_a_constant_image_stays_constant_inside():
    ones = torch.ones(1, 1, 8, 8)
    for result in (blur(ones, 2), downsample(ones), upsample(ones)):
        np.testing.assert_allclose(result[0, 0, 2:-2, 2:-2], 1, atol=1e-6)


def test_result_keeps_type(image):
    assert upsample(image.bfloat16()).dtype == torch.bfloat16
    assert blur(image.double(), 1).dtype == torch.float64
