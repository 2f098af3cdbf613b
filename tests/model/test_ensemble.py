"""Ensembles: aligned before they are averaged, and unsure where they should be."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from atomvae.datasets.cards import cards
from atomvae.errors import InputError
from atomvae.model import ensemble, zoo
from atomvae.model.ensemble import (
    class_probabilities,
    co_association,
    encode_ensemble,
    entropy,
    train_ensemble,
)
from atomvae.model.train import TrainConfig
from tests.model import scores

SIZE = 24


@pytest.fixture(scope="module")
def members():
    shown = cards(12, 1, 500, size=SIZE, noise=0.1, seed=0)
    models = train_ensemble(
        zoo.jvae((SIZE, SIZE), classes=4, seed=0), shown.images, TrainConfig(epochs=30), members=4
    )
    return shown, models


def permuted(model, order):
    """The same model with its classes in another order: heads and decoder."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for f in model.latent:
            for name in ("weight", "bias"):
                value = getattr(other.heads[f.name], name)
                value.copy_(value.view(4, f.n_params, -1)[order].view(value.shape))
        first = other.decoder.net[0].weight  # columns: z, then the class
        first[:, 2:] = first[:, 2:][:, order]
    return other


def test_the_numbering_of_classes_changes_nothing(members):
    shown, models = members
    orders = [[0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0], [1, 0, 3, 2]]
    others = [permuted(m, order) for m, order in zip(models, orders, strict=True)]
    p = class_probabilities(models[1], shown.images)
    assert np.allclose(class_probabilities(others[1], shown.images), p[:, orders[1]], atol=1e-5)
    a, b = encode_ensemble(models, shown.images), encode_ensemble(others, shown.images)
    assert (a["class"] == b["class"]).all()
    assert np.allclose(a.to_numpy(), b.to_numpy(), atol=1e-4)
    # averages of classes that are not aligned look unsure everywhere
    plain = np.mean([class_probabilities(m, shown.images) for m in others], 0)
    assert entropy(plain).mean() > 5 * max(b["class_entropy"].mean(), 0.02)


def test_classes_of_the_ensemble_are_the_suits(members):
    shown, models = members
    table = encode_ensemble(models, shown.images)
    assert scores.accuracy(table["class"], shown.truth["suit"]) > 0.95
    together = co_association([class_probabilities(m, shown.images).argmax(1) for m in models])
    same = table["class"].to_numpy()[:, None] == table["class"].to_numpy()
    assert together[same].mean() > 0.9 and together[~same].mean() < 0.05
    assert (table["class_information"] >= 0).all()
    assert (table["class_information"] <= table["class_entropy"] + 1e-9).all()


def test_blends_are_seen_by_the_dispersion(members):
    """Half of one suit and half of another, among cards that no member was trained on."""
    _, models = members
    test = cards(12, 1, 240, size=SIZE, noise=0.1, seed=5)
    suit = test.truth["suit"].to_numpy()
    a, b = np.arange(0, 120), np.arange(120, 240)
    b = b[np.argsort(suit[b])]
    a = a[np.argsort(-suit[a])]
    a, b = a[suit[a] != suit[b]], b[suit[a] != suit[b]]
    clean = cards(12, 1, 240, size=SIZE, seed=5).images
    noise = np.random.default_rng(0).normal(scale=0.1, size=(len(a), SIZE, SIZE))
    images = np.concatenate([test.images, (clean[a] + clean[b]) / 2 + noise])
    blend = np.arange(len(images)) >= len(test.images)
    table = encode_ensemble(models, images)
    assert roc_auc_score(blend, table["dispersion"]) >= 0.9


def test_an_ensemble_that_was_stopped_goes_on(tmp_path, monkeypatch):
    images = cards(12, 1, 60, size=12, noise=0.1, seed=0).images
    short = TrainConfig(epochs=2)

    def run(folder=None):
        model = zoo.jvae((12, 12), seed=0)
        return train_ensemble(model, images, short, members=2, warm_up=1, folder=folder)

    whole = run()
    trained = []

    def stop(model, *arguments, **settings):
        if len(trained) == 2:  # in the second member
            raise KeyboardInterrupt
        trained.append(model)
        return real(model, *arguments, **settings)

    real = ensemble.train
    monkeypatch.setattr(ensemble, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(ensemble, "train", real)
    again = run(tmp_path)
    assert len(trained) == 2
    for a, b in zip(whole, again, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    states = [torch.cat([p.flatten() for p in m.parameters()]) for m in whole]
    assert not torch.equal(*states)  # members differ


def test_content_and_angles_are_aligned():
    """Members that differ by a turn of the content and by the zero of each motif agree fully."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 2))
    c, s = np.cos(0.7), np.sin(0.7)
    turned = z @ np.array([[c, s], [s, -c]]) + 3.0
    assert np.allclose(ensemble._turn_alike([z, turned])[1], z)
    angle, label = rng.uniform(-3, 3, 50), rng.integers(0, 2, 50)
    other = angle + np.array([0.5, -2.0])[label]
    found = ensemble._zero_alike([angle, other], label)
    assert np.allclose(np.exp(1j * found[1]), np.exp(1j * angle))


def test_what_makes_no_sense_is_refused():
    images = np.random.default_rng(0).normal(size=(20, 8, 8))
    with pytest.raises(InputError, match="at least 2"):
        train_ensemble(zoo.vae((8, 8)), images, members=1)
    with pytest.raises(InputError, match="composition"):
        encode_ensemble([zoo.vae((8, 8)), zoo.ae((8, 8))], images)
    with pytest.raises(InputError, match="discrete"):
        class_probabilities(zoo.vae((8, 8)), images)
