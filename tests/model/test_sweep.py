"""Trainings side by side end as they end one after the other."""

import numpy as np
import pytest
import torch

from atomvae.errors import InputError
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.ensemble import train_ensemble
from atomvae.model.sweep import train_sweep

IMAGES = np.random.default_rng(0).normal(size=(40, 8, 8))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums of one thread and of several differ in their last bits."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def weights(model):
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def test_a_sweep_is_as_many_trainings(tmp_path):
    configs = [TrainConfig(epochs=2, learning_rate=rate) for rate in (1e-3, 3e-3, 1e-2)]

    def models():
        return [zoo.rvae((8, 8)) for _ in configs]

    one, two = models(), models()
    alone = train_sweep(one, IMAGES, configs)
    table = train_sweep(two, IMAGES, configs, processes=2, folder=tmp_path)
    assert table["run"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table.equals(alone) and bool(two[0].trained)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(two[0]), weights(two[1]))
    again = models()
    assert train_sweep(again, IMAGES, configs, folder=tmp_path).equals(table)  # nothing is redone
    assert torch.equal(weights(again[2]), weights(two[2]))


def test_members_side_by_side_are_those_of_one_process():
    runs = []
    for processes in (1, 2):
        config = TrainConfig(epochs=1, processes=processes)
        runs.append(train_ensemble(zoo.jvae((8, 8)), IMAGES, config, members=3, warm_up=1))
    for a, b in zip(*runs, strict=True):
        assert torch.equal(weights(a), weights(b)) and bool(b.trained) and not b.training


def test_what_makes_no_sense_is_refused():
    model, config = zoo.vae((8, 8)), TrainConfig(epochs=1)
    with pytest.raises(InputError, match="1 different models and 2 settings"):
        train_sweep([model, model], IMAGES, [config, config])
    with pytest.raises(InputError, match="processes is 0"):
        train_sweep([model], IMAGES, [config], processes=0)
    with pytest.raises(InputError, match="NaN"):  # met in another process
        both = [zoo.vae((8, 8)), zoo.vae((8, 8))]
        train_sweep(both, IMAGES * np.nan, [config, config], processes=2)
