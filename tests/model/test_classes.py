"""Classes that are found without labels, against the truth."""

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from atomvae.datasets.cards import cards
from atomvae.datasets.digits import digits, mnist
from atomvae.model import zoo
from atomvae.model.alignment import harmonics, nearest
from atomvae.model.cluster import divide, nearest_deformed
from atomvae.model.config import TrainConfig
from atomvae.model.encode import encode
from atomvae.model.guess import build_graph, guess_classes
from atomvae.model.train import train


def matched_accuracy(found, true):
    """Share of rows whose class is right under the best one-to-one naming of the classes."""
    size = max(found.max(), true.max()) + 1
    count = np.zeros((size, size))
    np.add.at(count, (found, true), 1)
    return count[linear_sum_assignment(-count)].sum() / len(true)


def graph_as_they_lie(image):
    index, distance = nearest_deformed(image, 10)
    return build_graph(index, np.zeros(index.shape), distance)


@pytest.mark.parametrize(("rotation", "shear"), [(12, 1), (12, 20), (120, 1), (120, 20)])
def test_suits_are_told_apart_at_any_turn(rotation, shear):
    deck = cards(rotation, shear, 800, noise=0.1, seed=3)
    graph = build_graph(*nearest(harmonics(deck.images[:, None].astype(float)), 15))
    suit = deck.truth["suit"].to_numpy()
    assert matched_accuracy(guess_classes(graph, 4, 0), suit) > 0.99


def test_suits_that_lie_alike_are_told_apart_without_turning():
    deck = cards(12, 20, 800, noise=0.1, seed=3)
    graph = graph_as_they_lie(deck.images[:, None].astype(float))
    assert matched_accuracy(guess_classes(graph, 4, 0), deck.truth["suit"].to_numpy()) > 0.99


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_digits_are_told_apart(seed):
    data = digits()
    found = guess_classes(graph_as_they_lie(data.images[:, None]), 10, seed)
    assert matched_accuracy(found, data.label) > 0.92  # k-means of the pixels gives 0.79


def test_deformed_patches_are_nearer_than_other_motifs():
    """Discs and rings, slanted and stretched: two thirds of the errors of the plain distance go."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    away = rng.normal(scale=0.1, size=(300, 2, 1, 1))
    bent = np.eye(2) + rng.normal(scale=0.15, size=(300, 2, 2))
    u = bent[:, 0, 0, None, None] * (x - away[:, 0]) + bent[:, 0, 1, None, None] * (y - away[:, 1])
    v = bent[:, 1, 0, None, None] * (x - away[:, 0]) + bent[:, 1, 1, None, None] * (y - away[:, 1])
    radius = np.hypot(u, v)
    ring = np.arange(300) % 2 == 1
    hole = np.where(ring[:, None, None], 0.7 * np.exp(-((radius / 0.12) ** 2)), 0)
    image = np.exp(-((radius / 0.4) ** 4)) - hole
    plain = ((image[:, None] - image) ** 2).sum((2, 3)) + 1e9 * np.eye(300)
    plain_wrong = (ring[np.argsort(plain, 1)[:, :5]] != ring[:, None]).mean()
    index, distance = nearest_deformed(image[:, None], 5)
    wrong = (ring[index] != ring[:, None]).mean()
    assert wrong < plain_wrong / 3, (wrong, plain_wrong)
    assert (np.diff(distance, axis=1) >= 0).all()
    assert (index != np.arange(300)[:, None]).all()


def test_one_component_doesnt_vanish_in_the_deformations():
    """Patches that differ in one way only, which a deformation can't be allowed to undo."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    bright = np.arange(200) % 2
    image = (1 + bright)[:, None, None] * np.exp(-10 * (x**2 + y**2))
    image = (image + rng.normal(scale=0.1, size=image.shape))[:, None]
    assert matched_accuracy(guess_classes(graph_as_they_lie(image), 2, 0), bright) > 0.99


def test_stray_patches_are_no_class():
    """Three blocks and a pair that hangs on by a thread."""
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1, 2], 100)
    link = rng.random((302, 302)) < 0.004
    link[:300, :300] |= (truth[:, None] == truth) & (rng.random((300, 300)) < 0.1)
    link[300:] = link[:, 300:] = False
    link[300, 301] = link[301, 5] = True
    weight = sparse.csr_matrix(np.maximum(link, link.T).astype(float))
    assert matched_accuracy(divide(weight, 3, 0)[:300], truth) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mnist_digits_are_found_without_labels(real_data, seed):
    """JointVAE (Dupont, NeurIPS 2018) reports 88.7 %; here on images that were not trained on."""
    data = mnist(real_data / "mnist" / "mnist.npz")
    image = data.images.astype(np.float32) / 255
    model = zoo.jvae((28, 28), 10, classes=10, seed=seed)
    train(model, image[: data.n_train], TrainConfig(seed=seed))
    found = encode(model, image[data.n_train :])["class"].to_numpy()
    assert matched_accuracy(found, data.label[data.n_train :]) > 0.887
