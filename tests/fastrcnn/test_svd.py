"""Truncated layers, compared with linear algebra and the paper's numbers of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fastrcnn.checkpoint import load_checkpoint, save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from fastrcnn.svd import compress, truncate_linear


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 8)


def test_full_rank_gives_the_same_layer(linear: nn.Linear) -> None:
    x = torch.randn(5, 12)
    torch.testing.assert_close(truncate_linear(linear, 8)(x), linear(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_error_is_the_norm_of_the_omitted_singular_values(linear: nn.Linear, rank: int) -> None:
    first, second = truncate_linear(linear, rank)
    error = (second.weight @ first.weight - linear.weight).square().sum()  # type: ignore[operator]
    left_out = torch.linalg.svdvals(linear.weight)[rank:].square().sum()
    torch.testing.assert_close(error, left_out, atol=1e-5, rtol=1e-4)


def test_a_zero_input_gives_the_bias(linear: nn.Linear) -> None:
    first, second = truncate_linear(linear, 2)
    torch.testing.assert_close(second(first(torch.zeros(1, 12)))[0], linear.bias)
    assert first.bias is None


@pytest.mark.parametrize("rank", [0, 9])
def test_an_impossible_rank_is_refused(linear: nn.Linear, rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank={rank}"):
        truncate_linear(linear, rank)


def test_the_papers_network_shrinks_to_its_counts() -> None:
    with torch.device("meta"):
        head = FastRCNN(FastRCNNConfig.paper(20, fc6_rank=1024, fc7_rank=256)).head
    counts = [
        sum(p.numel() for n, p in fc.named_parameters() if "bias" not in n)
        for fc in (head.fc6, head.fc7)
    ]
    assert counts == [29_884_416, 2_097_152]


def test_a_compressed_checkpoint_loads_like_any_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FastRCNN(FastRCNNConfig.modern(2, backbone="tiny", fc_dim=16)).eval()
    compressed = compress(model, fc6_rank=16, fc7_rank=16)
    image, rois = torch.randn(1, 3, 64, 64), torch.tensor([[0.0, 0, 0, 50, 60]])
    with torch.no_grad():
        torch.testing.assert_close(
            compressed(image, rois), model(image, rois), atol=1e-4, rtol=1e-4
        )
    save_checkpoint(
        tmp_path, compress(model, 8, 4), classes=("a", "b"), proposals=ProposalConfig(), training={}
    )
    loaded = load_checkpoint(tmp_path).model
    assert (loaded.config.fc6_rank, loaded.config.fc7_rank) == (8, 4)
    with pytest.raises(ValueError, match="fc6 is truncated already"):
        compress(loaded, 4, 2)
