"""From the image frame to the model frame: sizes, factors, padding and RoIs."""

from __future__ import annotations

import pytest
import torch

from fastrcnn.transform import IMAGE_MEAN, batch_images, scale_factor, scaled_size, to_rois


@pytest.mark.parametrize(
    ("size", "factor", "scaled"), [((500, 375), 1.6, (800, 600)), ((1000, 300), 1.0, (1000, 300))]
)
def test_the_shorter_side_becomes_600_unless_the_longer_would_exceed_1000(
    size: tuple[int, int], factor: float, scaled: tuple[int, int]
) -> None:
    assert scale_factor(size, 600, 1000) == factor
    assert scaled_size(size, 600, 1000) == scaled


def test_an_image_one_pixel_high_keeps_one_pixel() -> None:
    assert scaled_size((1, 20_000), 600, 1000) == (1, 1000)


def test_images_of_two_sizes_share_a_padded_batch() -> None:
    images = [
        torch.full((40, 60, 3), 255, dtype=torch.uint8),
        torch.zeros(30, 30, 3, dtype=torch.uint8),
    ]
    batch = batch_images(images, 60, 100)
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.sizes == ((40, 60), (30, 30))
    torch.testing.assert_close(batch.factors, torch.tensor([[1.5] * 4, [2.0] * 4]))
    assert batch.images[0, :, 60:].abs().sum() == 0  # padding is the mean colour's zero
    assert batch.images[0, 0, 0, 0].item() == pytest.approx((1 - IMAGE_MEAN[0]) / 0.229)
    assert batch.images[1, 2, 5, 5].item() == pytest.approx(-0.406 / 0.225)


def test_padding_does_not_change_the_pixels_of_an_image() -> None:
    small = torch.randint(0, 256, (50, 50, 3), dtype=torch.uint8)
    large = torch.randint(0, 256, (50, 80, 3), dtype=torch.uint8)
    alone = batch_images([small], 100, 200).images[0]
    together = batch_images([small, large], 100, 200).images[0]
    torch.testing.assert_close(together[:, :100, :100], alone[:, :100, :100])


def test_rois_hold_their_image_index_and_are_scaled() -> None:
    factors = torch.tensor([[2.0] * 4, [0.5, 0.25, 0.5, 0.25]])
    rois = to_rois([torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[8.0, 8, 16, 16]])], factors)
    assert rois.tolist() == [[0, 2, 4, 6, 8], [1, 4, 2, 8, 4]]
    assert to_rois([torch.zeros(0, 4), torch.zeros(0, 4)], factors).shape == (0, 5)
