"""Several processes give what one gives."""

import numpy as np
import pytest
import torch

from atomvae.datasets.cards import cards
from atomvae.errors import InputError
from atomvae.model import zoo
from atomvae.model.config import TermWeight, TrainConfig
from atomvae.model.processes import share_means
from atomvae.model.train import train

SHOWN = cards(120, 20, 101, size=16, noise=0.1, seed=0)
WEIGHTS = (TermWeight(term="z", weight=10.0, capacity_nats=2.0),)


def trained(make=zoo.jrvae, **settings):
    model = make((16, 16), seed=0)
    config = TrainConfig(epochs=3, batch_size=18, weights=WEIGHTS, **settings)
    history = train(model, SHOWN.images, config)
    return model, history


def test_two_processes_do_what_one_does():
    """The last batch has one patch: a process that has nothing to do must answer too."""
    model, alone = trained(parts=2)
    other, together = trained(processes=2)
    assert len(alone) == 3 and alone.columns.equals(together.columns)
    assert np.allclose(alone, together, rtol=1e-4, atol=1e-4)
    for name, value in model.state_dict().items():
        assert torch.allclose(value.double(), other.state_dict()[name].double(), atol=1e-3), name
    assert not torch.distributed.is_initialized()


def test_parts_change_the_draws_and_nothing_else():
    """The same run in the mean, not number by number."""
    whole, parts = (trained(zoo.vae, parts=n)[1] for n in (1, 3))
    assert not np.array_equal(whole["nll"], parts["nll"])
    assert np.allclose(whole["nll"], parts["nll"], rtol=0.1)


def test_the_gradient_of_a_capacity_is_that_of_the_whole_batch():
    """|mean - C| of halves would pull each half to C on its own."""
    x = torch.tensor([1.0, 5.0], requires_grad=True)
    means = share_means({"z": x.sum() / 2})
    (means["z"] - 2.0).abs().backward()
    assert x.grad.tolist() == [0.5, 0.5]


def test_an_error_in_a_group_is_that_of_one():
    with pytest.raises(InputError, match="NaN"):
        train(zoo.vae((8, 8)), np.full((20, 8, 8), np.nan), TrainConfig(processes=2))
    assert not torch.distributed.is_initialized()
