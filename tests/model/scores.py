"""How well a model knows the truth: angles, classes, shears."""

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score

FOLDS = {0: 1, 1: 2, 2: 1, 3: 1}  # symmetry of club, diamond, heart, spade


def resultant(angle, fold):
    """Length of the mean of unit vectors: 1 for equal angles, 0 for any."""
    return abs(np.exp(1j * fold * np.asarray(angle)).mean())


def skill(estimate, truth, fold=1):
    """Centred circular skill: 1 up to a constant, 0 for a constant estimate."""
    chance = resultant(truth, fold)
    return (resultant(np.asarray(truth) - estimate, fold) - chance) / (1 - chance)


def skill_of_chance(estimate, truth, fold=1, draws=1000, seed=0):
    """99 % point of the skill of the same estimates in another order."""
    rng = np.random.default_rng(seed)
    return np.quantile([skill(rng.permutation(estimate), truth, fold) for _ in range(draws)], 0.99)


def circular_sd(estimate, truth, fold=1):
    """Residual circular sd in degrees."""
    r = min(resultant(np.asarray(truth) - estimate, fold), 1.0)
    return float(np.degrees(np.sqrt(-2 * np.log(r))) / fold)


def by_suit(score, estimate, truth, sign=1):
    """A score of angles for each suit."""
    suit, angle = truth["suit"].to_numpy(), truth["angle"].to_numpy()
    estimate = sign * np.asarray(estimate)
    return [float(score(estimate[suit == k], angle[suit == k], fold)) for k, fold in FOLDS.items()]


def accuracy(found, truth):
    """Share of right classes after the best matching of their numbers."""
    table = pd.crosstab(np.asarray(found), np.asarray(truth)).to_numpy()
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(truth))


def cluster_agreement(z, truth, k=4):
    """Adjusted Rand index of k-means in the latents with the truth."""
    found = KMeans(k, n_init=10, random_state=0).fit_predict(z)
    return float(adjusted_rand_score(truth, found))


def shear_scores(table, truth):
    """For each suit: Pearson r of the measured with the true shear, and the skill without its turn.

    A pure shear has an axis, which is where the model put it; so the measured shear is the linear
    combination of the components that fits the truth. A simple shear by h contains a turn by
    atan(tan(h) / 2), which a model of pure shears counts as angle.
    """
    columns = [c for c in table if c.startswith("shear") and not c.endswith("_sd")]
    suit, h = truth["suit"].to_numpy(), truth["shear"].to_numpy()
    turn, r = np.zeros(len(h)), []
    for k in FOLDS:
        x, y = table.loc[suit == k, columns].to_numpy(), h[suit == k]
        found = LinearRegression().fit(x, y).predict(x)
        r.append(float(np.corrcoef(found, y)[0, 1]))
        turn[suit == k] = np.arctan(np.tan(found) / 2)
    return r, by_suit(skill, table["angle"].to_numpy() + turn, truth)
