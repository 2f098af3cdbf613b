"""The whole path on a simulated movie, against its truth."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

import atomvae
from atomvae.maps.symmetry import circular_mean, sublattice_from_angle


def true_sublattice(atoms, truth):
    """Sublattice of the nearest true atom within 3 px, else -1."""
    found = np.full(len(atoms), -1)
    for t, own in atoms.groupby("frame"):
        there = truth[(truth["frame"] == t) & truth["visible"]]
        distance, nearest = cKDTree(there[["y", "x"]]).query(own[["y", "x"]])
        label = there["sublattice"].to_numpy()[nearest]
        found[own.index] = np.where(distance < 3, label, -1)
    return found


def information(values, label, bins=12):
    """Mutual information of a number and a label in nats; the bias of the bins is taken out."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    table = np.histogram2d(np.searchsorted(edges, values), label, (bins, 2))[0]
    p = table / table.sum()
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    used = p > 0
    plain = (p[used] * np.log(p[used] / independent[used])).sum()
    return plain - (bins - 1) / (2 * len(values))  # Miller and Madow


@pytest.fixture(scope="module")
def graphene():
    """A drifting perfect sheet at 2.5 electrons per pixel, taken all the way with defaults."""
    simulation = atomvae.simulate(
        "graphene", frames=5, shape=(192, 192), seed=11, difficulty="scan"
    )
    atoms = atomvae.detect_atoms(simulation.movie)
    patches = atomvae.cut_patches(simulation.movie, atoms)
    model = atomvae.zoo.skip_rvae(patches.layout.shape, latent_dim=2, seed=1)
    atomvae.train(model, patches)
    table = atomvae.map_latents(atoms, atomvae.encode(model, patches), symmetry=3)
    return simulation, table, true_sublattice(atoms, simulation.truth)


def test_most_atoms_are_found_where_they_are(graphene):
    simulation, table, sublattice = graphene
    assert (sublattice >= 0).mean() > 0.97  # what was found is there
    middle = simulation.truth[
        simulation.truth["visible"]
        & simulation.truth["y"].between(10, 181)
        & simulation.truth["x"].between(10, 181)
    ]
    hit = 0
    for t, there in middle.groupby("frame"):
        own = table[table["frame"] == t]
        hit += (cKDTree(own[["y", "x"]]).query(there[["y", "x"]])[0] < 3).sum()
    assert hit / len(middle) > 0.97  # and what is there was found


def test_angle_tells_the_sublattices_apart(graphene):
    _, table, sublattice = graphene
    known = sublattice >= 0
    angle, truth = table["angle"].to_numpy()[known], sublattice[known]
    a, b = (circular_mean(angle[truth == k], 3) for k in (0, 1))
    assert np.degrees((b - a) % (2 * np.pi / 3)) == pytest.approx(60, abs=3)
    label, _ = sublattice_from_angle(angle, 3)
    agreement = (label == truth).mean()
    assert max(agreement, 1 - agreement) >= 0.99


def test_content_carries_no_sublattice(graphene):
    """Content hardly used is left with anything between 0 and 0.02 nats by one training or another;
    so this is about the median of three.
    """
    simulation, table, sublattice = graphene
    known = sublattice >= 0
    assert information(table["angle"].to_numpy()[known], sublattice[known]) > 0.3
    patches = atomvae.cut_patches(simulation.movie, table)
    tables = [table]
    for seed in (2, 3):
        model = atomvae.zoo.skip_rvae(patches.layout.shape, latent_dim=2, seed=seed)
        atomvae.train(model, patches)
        tables.append(atomvae.encode(model, patches))
    for name in ("z_0", "z_1"):
        nats = [information(each[name].to_numpy()[known], sublattice[known]) for each in tables]
        assert np.median(nats) < 0.02


def test_an_atom_keeps_its_angle(graphene):
    """The same atom keeps its angle: nothing of it comes from noise or drift."""
    simulation, table, sublattice = graphene
    table = atomvae.link_atoms(table, simulation.drift)
    for _, track in table[sublattice >= 0].groupby("track"):
        if len(track) == 5:
            turn = np.exp(3j * track["angle"].to_numpy())
            assert abs(turn.mean()) > 0.8
