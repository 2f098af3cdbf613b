"""What a training takes for settings that are not given, and how exactly it multiplies."""

import numpy as np
import pytest
import torch

from atomvae.errors import InputError
from atomvae.model import decoders, zoo
from atomvae.model.config import TrainConfig
from atomvae.model.train import train


@pytest.mark.parametrize(
    ("n", "epochs", "batch"),
    [
        (3000, None, 64),  # a default run of a few thousand patches
        (2500, 1, 16),
        (2500, 4, 32),
        (20_000, None, 128),
        (1_000_000, None, 512),
        (30, None, 8),
        (300, None, 37),  # at least eight batches an epoch
    ],
)
def test_the_batch_grows_with_the_square_root_of_what_a_run_sees(n, epochs, batch):
    assert TrainConfig(epochs=epochs).resolve(n, (1, 32, 32)).batch_size == batch


def test_short_runs_hurry_at_most_twice():
    rates = [TrainConfig(epochs=e).resolve(2500, (1, 32, 32)).learning_rate for e in (17, 4, 2, 1)]
    assert rates == sorted(rates) and rates[0] == 0.003
    least = TrainConfig(epochs=1).resolve(100, (1, 32, 32))
    assert least.learning_rate == 0.006


def test_what_the_user_says_stands():
    said = TrainConfig(epochs=1, batch_size=50, learning_rate=1e-4, pixels=7).resolve(
        2500, (1, 32, 32)
    )
    assert (said.epochs, said.batch_size, said.learning_rate, said.pixels) == (1, 50, 1e-4, 7)


def test_the_precision_of_others_is_left_alone():
    images = np.random.default_rng(0).normal(size=(20, 8, 8))
    seen = set()
    train(
        zoo.vae((8, 8)), images, TrainConfig(epochs=1),
        progress=lambda _: seen.add(torch.get_float32_matmul_precision()),
    )  # fmt: skip
    assert seen == {"medium"} and torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(InputError):
        train(zoo.vae((8, 8)), images * np.nan, TrainConfig(epochs=1))
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("points", [1, 5, 64, 1000])
def test_decoding_in_blocks_is_decoding(points, monkeypatch):
    """Without gradients few points are decoded at once; what comes out is the same."""
    monkeypatch.setattr(decoders, "IN_CACHE", points)
    decoder = decoders.CoordinateDecoder((2, 8, 8), content=3, width=16, skip=True)
    content, coords = torch.randn(7, 3), torch.rand(7, 20, 2)
    whole = decoder(content, coords).detach()
    with torch.no_grad():
        assert torch.allclose(decoder(content, coords), whole, atol=1e-6)
        assert decoder(content[:0], coords[:0]).shape == (0, 20, 2)
