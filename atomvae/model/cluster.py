"""Patches compared up to small deformations, and groups of them.

Two patches of one class seldom lie in the same place to a fraction of a pixel, and a slant or a
stretch makes no other class. What is left of their difference after the best small affine
deformation says more than the difference itself: the tangent distance (Simard, LeCun & Denker,
NIPS 5, 50, 1993), which costs no more than the plain one among principal components.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh

COMPONENTS = 50  # principal components of the patches, at most
CANDIDATES = 100  # nearest by the plain distance, among which the nearest are looked for
DEFORMED = 0.2  # standard deviation of a deformation: displacement at the edge over half a side
STEPS = 8  # of diffusion, by which narrow passages between groups count more
BLOCK = 256  # patches compared with all others at a time


def nearest_deformed(
    image: NDArray[np.floating], k: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the most similar patches of each, up to a small affine deformation.

    Parameters
    ----------
    image
        (n, c, h, w), more than `k`.
    k
        How many.
    seed
        Of the principal components, which are found by random projections.

    Returns
    -------
    index, distance
        (n, k): which, nearest first, and the squared distance that is left.

    Examples
    --------
    >>> y, x = np.mgrid[-1:1:16j, -1:1:16j]
    >>> rng = np.random.default_rng(0)
    >>> away = rng.normal(scale=0.1, size=(40, 2, 1, 1))
    >>> round_, oblong = (
    ...     np.exp(-8 * ((y - away[:, 0]) ** 2 / s + (x - away[:, 1]) ** 2)) for s in (1.0, 0.5)
    ... )
    >>> index, _ = nearest_deformed(np.concatenate([round_, oblong])[:, None], 3)
    >>> index.shape
    (80, 3)
    """
    n = len(image)
    score, tangent = _components(image, seed)
    norm = (score**2).sum(1)
    many = min(max(CANDIDATES, k), n - 1)
    index = np.empty((n, many), np.int64)
    distance = np.empty((n, many))
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        apart = norm[rows, None] + norm - 2 * score[rows] @ score.T  # (b, n)
        apart[np.arange(len(rows)), rows] = np.inf
        index[rows] = np.argpartition(apart, many - 1, axis=1)[:, :many]
        distance[rows] = np.take_along_axis(apart, index[rows], 1)
    # A deformation is as large as it pays for: it is weighed against what else differs.
    stiff = np.median(distance.min(1)) / score.shape[1] / DEFORMED**2
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        across = score[index[rows]] - score[rows, None]  # (b, many, r)
        along = across @ tangent[rows].transpose(0, 2, 1)  # (b, many, 6)
        gram = tangent[rows] @ tangent[rows].transpose(0, 2, 1) + stiff * np.eye(6)
        undone = np.linalg.solve(gram, along.transpose(0, 2, 1)).transpose(0, 2, 1)
        distance[rows] = (across**2).sum(2) - (along * undone).sum(2)
    order = np.argsort(distance, axis=1)[:, :k]
    nearest = np.take_along_axis(distance, order, 1)
    return np.take_along_axis(index, order, 1), np.maximum(nearest, 0)


def _components(
    image: NDArray[np.floating], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components (n, r) that stand out from the noise, and their tangents (n, 6, r).

    A tangent is the change per unit of a deformation: along x and y, each by 1, x and y.
    """
    from sklearn.decomposition import PCA

    n, c, h, w = image.shape
    flat = image.reshape(n, -1).astype(np.float32)
    size = min(COMPONENTS, n - 1, flat.shape[1])
    pca = PCA(size, svd_solver="randomized", random_state=seed).fit(flat)
    edge = pca.noise_variance_ * (1 + np.sqrt(flat.shape[1] / n)) ** 2
    basis = pca.components_[: max(1, int((pca.explained_variance_ > 2 * edge).sum()))]
    score = (flat - pca.mean_) @ basis.T
    picture = np.concatenate([pca.mean_[None], basis]).reshape(-1, c, h, w)
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    dy, dx = np.gradient(picture, 2 / (h - 1), 2 / (w - 1), axis=(2, 3))
    change = np.stack([f * d for d in (dy, dx) for f in (1.0, y, x)])  # (6, r + 1, c, h, w)
    generator = change.reshape(6, len(picture), -1).astype(np.float32) @ basis.T
    tangent = generator[:, 0] + np.einsum("nr,grs->ngs", score, generator[:, 1:])
    return score, np.asarray(tangent, np.float32)


def divide(weight: sparse.csr_matrix, parts: int, seed: int) -> NDArray[np.int64]:
    """Divide a graph into parts: spectral clustering.

    The degrees are raised by their mean (Amini et al., Ann. Stat. 41, 2097, 2013), without which
    a handful of stray patches is taken for a part of its own. More vectors are kept than there are
    parts, because the weakest border between two parts need not belong to the first; vectors count
    as they last in a diffusion (Coifman & Lafon, Appl. Comput. Harmon. Anal. 21, 5, 2006).

    Parameters
    ----------
    weight
        (n, n) sparse, symmetric, not negative.
    parts
        How many.
    seed
        Of the clustering.

    Returns
    -------
    ndarray
        (n,) part of each, 0 to parts - 1.

    Examples
    --------
    >>> block = np.ones((6, 6))
    >>> weight = sparse.block_diag([block, block]) + sparse.csr_matrix(np.full((12, 12), 0.01))
    >>> label = divide(weight.tocsr(), 2, seed=0)
    >>> len(set(label[:6])), len(set(label[6:])), label[0] == label[6]
    (1, 1, np.False_)
    """
    from sklearn.cluster import KMeans

    degree = np.asarray(weight.sum(1), float).ravel()
    root = sparse.diags(1 / np.sqrt(degree + degree.mean()))
    vectors = min(2 * parts, len(degree) - 1)
    value, vector = eigsh(root @ weight @ root, vectors, which="LA", v0=np.ones(len(degree)))
    vector *= (np.maximum(value, 0) / value.max()) ** STEPS
    vector /= np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-12)
    label = KMeans(parts, n_init=10, random_state=seed).fit_predict(vector)
    return np.asarray(label, np.int64)
