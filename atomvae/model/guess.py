"""A first guess of angles and classes, from comparing patches with each other.

Gradient descent on an angle stays in the local minimum where it starts, and so does a class. But
two patches that show the same motif tell their relative angle at once, and a graph of such pairs
tells all angles up to a common turn, by one eigenvector: angular synchronisation (Singer, Appl.
Comput. Harmon. Anal. 30, 20, 2011) and vector diffusion maps (Singer & Wu, Commun. Pure Appl.
Math. 65, 1067, 2012). The groups of the graph are a guess of the classes. Training starts from
the guess, and forgets it when the model knows better.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from torch import Tensor

from atomvae.latent import Categorical
from atomvae.model.alignment import Harmonics, align, harmonics, nearest
from atomvae.model.batches import Batches
from atomvae.model.cluster import divide, nearest_deformed
from atomvae.model.model import Model

ROWS = 1500  # patches that are compared at all turns, each with each
MORE = 4  # times as many are compared as they lie, which costs less
NEIGHBOURS = 15
FEWER = 10  # neighbours of patches as they lie: of more, some are of another class
FOLDS = (1, 2, 3, 4, 6)  # symmetries that a motif may have
PARTNERS = 30  # patches by which an angle is judged
STEPS = 64  # in the graph, to the partners: far, but seldom to another motif
AGREES = 0.9  # share of the best possible overlap that an angle must reach
ENOUGH = 0.95  # share of the agreement of the best number of folds that a smaller one must reach


@dataclass(frozen=True)
class Graph:
    """Patches and their most similar fellows.

    Parameters
    ----------
    index
        (n, k) the nearest of each patch.
    weight
        (n, n) sparse, symmetric: how similar two patches are.
    turn
        (n, n) sparse, Hermitian: weight times exp(i (angle of the row - angle of the column)).
    """

    index: NDArray[np.int64]
    weight: sparse.csr_matrix
    turn: sparse.csr_matrix

    @property
    def degree(self) -> NDArray[np.float64]:
        """(n,) sum of the weights of each patch."""
        return np.asarray(self.weight.sum(1), float).ravel()


def build_graph(
    index: NDArray[np.int64], turn: NDArray[np.float64], distance: NDArray[np.float64]
) -> Graph:
    """Make a graph of nearest neighbours (n, k), see `nearest`.

    Weights fall with the squared distance, measured by the neighbours' own: dense and sparse parts
    of the data count alike.
    """
    n, k = index.shape
    scale = np.maximum(np.median(distance, 1), 1e-12)
    weight = np.exp(-2 * distance / (scale[:, None] + scale[index]))
    place = (np.repeat(np.arange(n), k), index.ravel())
    half = sparse.csr_matrix((weight.ravel(), place), (n, n))
    turned = sparse.csr_matrix(((weight * np.exp(-1j * turn)).ravel(), place), (n, n))
    return Graph(index, (half + half.T).tocsr(), (turned + turned.conj().T).tocsr())


def synchronise(graph: Graph, fold: int = 1) -> NDArray[np.float64]:
    """Find the angles whose differences are the turns of the graph, for a motif of n folds.

    Returns
    -------
    ndarray
        (n,) radians, modulo 2 pi / fold; a constant of each connected part is arbitrary.

    Examples
    --------
    >>> angle = np.linspace(0, 3, 30)
    >>> index = (np.arange(30)[:, None] + np.arange(-3, 4)) % 30
    >>> graph = build_graph(index, angle[index] - angle[:, None], np.ones((30, 7)))
    >>> found = synchronise(graph)
    >>> bool(np.allclose(np.exp(1j * (found - found[0])), np.exp(1j * angle)))
    True
    """
    turn = graph.turn.copy()
    turn.data = np.abs(turn.data) * np.exp(1j * fold * np.angle(turn.data))
    root = sparse.diags(1 / np.sqrt(graph.degree))
    unit = np.ones(turn.shape[0], complex)
    _, part = connected_components(graph.weight, directed=False)
    for rows in (np.flatnonzero(part == i) for i in range(part.max() + 1)):
        if len(rows) > 3:
            matrix = (root @ turn @ root)[rows][:, rows]
            _, vector = eigsh(matrix, 1, which="LA", v0=np.ones(len(rows)))
            unit[rows] = np.exp(1j * np.angle(vector[:, 0]))
    for _ in range(10):  # from the relaxed solution to unit numbers
        mean = turn @ unit
        unit = mean / np.maximum(np.abs(mean), 1e-12)
    return np.asarray(np.angle(unit) / fold, float)


def agreement(
    patches: Harmonics, angles: dict[int, NDArray[np.float64]], graph: Graph, seed: int
) -> dict[int, NDArray[np.float64]]:
    """Say how well angles bring patches into register with others a few steps away in the graph.

    Next neighbours may agree where the angles are twisted over a long chain of them; patches
    further off don't.

    Parameters
    ----------
    patches
        Harmonics of n patches.
    angles
        (n,) by the number of folds.
    graph
        Its neighbours are walked along.
    seed
        Of the walks.

    Returns
    -------
    dict
        (n,) by the number of folds: median over partners of the overlap at the angles, best over
        the folds, less the mean over all turns, over that of the best turn. 1 is perfect, random
        angles give about 0.
    """
    n, k = graph.index.shape
    rng = np.random.default_rng([seed, 7])
    walk = np.repeat(np.arange(n)[:, None], PARTNERS, 1)
    for _ in range(STEPS):
        walk = graph.index[walk, rng.integers(k, size=walk.shape)]
    out = {fold: np.zeros(n) for fold in angles}
    for i, partner in enumerate(walk):
        overlap = align(patches, np.array([i]), partner)[0]  # (partners, turns)
        turns = overlap.shape[1]
        mean, best = overlap.mean(1), overlap.max(1)
        for fold, angle in angles.items():
            wanted = (angle[partner] - angle[i])[:, None] + 2 * np.pi * np.arange(fold) / fold
            place = np.round(wanted / (2 * np.pi) * turns).astype(int) % turns
            reached = np.take_along_axis(overlap, place, 1).max(1)
            out[fold][i] = np.median((reached - mean) / np.maximum(best - mean, 1e-12))
    return out


def guess_angles(patches: Harmonics, graph: Graph, seed: int) -> NDArray[np.float64]:
    """Guess angles: (n,) radians, NaN where none brings the patch into register.

    The smallest number of folds is taken that explains a patch and those around it in the graph;
    which of the equivalent angles a symmetric motif is given doesn't matter.
    """
    angles = {fold: synchronise(graph, fold) for fold in FOLDS}
    scores = agreement(patches, angles, graph, seed)
    around = {}
    for fold, score in scores.items():
        around[fold] = score
        for _ in range(STEPS):
            around[fold] = graph.weight @ around[fold] / graph.degree
    best = np.max(list(around.values()), 0)
    angle = np.full(len(best), np.nan)
    for fold in reversed(FOLDS):
        good = (around[fold] > ENOUGH * best) & (best > AGREES)
        angle[good] = np.where(scores[fold] > AGREES, angles[fold], np.nan)[good]
    return angle


def guess_classes(graph: Graph, classes: int, seed: int) -> NDArray[np.int64]:
    """Guess classes (n,): parts of the graph with few connections between them, see `divide`."""
    return divide(graph.weight, classes, seed)


def spread_labels(graph: Graph, known: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Spread known classes over the graph: (n,), -1 where none can be reached.

    Each patch takes the class that a random walk from it meets first (Zhu, Ghahramani & Lafferty,
    ICML 2003).
    """
    there = known >= 0
    free = np.flatnonzero(~there)
    system = sparse.diags(graph.degree * (1 + 1e-6)) - graph.weight
    one_hot = np.eye(classes)[known[there]]
    right = graph.weight[free][:, np.flatnonzero(there)] @ one_hot
    share = sparse.linalg.spsolve(system[free][:, free].tocsc(), right).reshape(len(free), classes)
    label: NDArray[np.int64] = known.copy()
    label[free] = np.where(share.max(1) > 1e-3, share.argmax(1), -1)
    return label


def first_guess(model: Model, batches: Batches, seed: int, most: int = ROWS) -> dict[str, Tensor]:
    """Guess the angles and classes of some patches.

    Parameters
    ----------
    model
        Whose factors are guessed: its angle, and the first class that is enumerated.
    batches
        Normalised patches and what is known of them.
    seed
        Of the choice of patches and of the clustering.
    most
        Patches that are compared at all turns; the time grows with the square.

    Returns
    -------
    dict
        (n, size) by the name of the factor, NaN where nothing is guessed; empty when the model
        has neither, or when nothing can be said.
    """
    kind = next((f for f in model.latent if isinstance(f, Categorical) and f.chooses), None)
    if model.angle is None and kind is None:
        return {}
    n, whole = len(batches.images), _whole(model, batches)
    if len(whole) < 4 * NEIGHBOURS:
        return {}
    rng = np.random.default_rng([seed, 6])
    most = MORE * most if model.angle is None else most
    rows = np.sort(rng.permutation(whole)[:most])
    told = {f.name for f in (model.angle, kind) if f is not None} & set(batches.known)
    for name in sorted(told):
        there = np.flatnonzero(~batches.known[name][:, 0].isnan().cpu().numpy())
        rows = np.union1d(rows, rng.permutation(there)[:most])
    image = batches.take(rows)["image"] * model.copy_field.to(batches.device)
    image = image.double().cpu().numpy()
    guess = {}
    if model.angle is None:
        index, distance = nearest_deformed(image, FEWER, seed)
        graph = build_graph(index, np.zeros(index.shape), distance)
    else:
        patches = harmonics(image)
        graph = build_graph(*nearest(patches, NEIGHBOURS))
        angle = guess_angles(patches, graph, seed)
        if model.angle.name in told:  # a common turn is free: take that of the known ones
            known = batches.known[model.angle.name][torch.from_numpy(rows), 0].cpu().numpy()
            angle = angle + np.angle(np.nansum(np.exp(1j * (known - angle))))
        if not np.isnan(angle).all():
            guess[model.angle.name] = _at(rows, angle[:, None], n)
    if kind is not None:
        if kind.name in told:
            known = batches.known[kind.name][torch.from_numpy(rows)].cpu().numpy()
            label = np.where(np.isnan(known[:, 0]), -1, np.nan_to_num(known).argmax(1))
            label = spread_labels(graph, label, kind.size)
        else:
            label = guess_classes(graph, kind.size, seed)
        one_hot = np.where(label[:, None] >= 0, np.eye(kind.size)[label], np.nan)
        guess[kind.name] = _at(rows, one_hot, n)
    return guess


def _whole(model: Model, batches: Batches) -> NDArray[np.int64]:
    """Rows without masked pixels: the edge of a frame is not to be taken for part of a motif."""
    if batches.images.mask is None:
        return np.arange(len(batches.images))
    field = model.copy_field.cpu().numpy()
    whole = [(mask | ~field).all((1, 2)) for mask in batches.images.masks()]
    return np.flatnonzero(np.concatenate(whole))


def _at(rows: NDArray[np.int64], values: NDArray[np.float64], n: int) -> Tensor:
    """Put values (m, size) at some of n rows, NaN elsewhere."""
    out = np.full((n, values.shape[1]), np.nan, np.float32)
    out[rows] = values
    return torch.from_numpy(out)
