"""Cards: the truth is exact, and its angle, shear and shift mean what the documentation says."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.stats import kstest

from atomvae.datasets.cards import SUITS, cards, draw_card
from atomvae.errors import InputError

CLUB, DIAMOND, HEART, SPADE = range(4)
ALL = range(4)


@pytest.fixture(scope="module")
def sample():
    return cards(120, 20, 2002, seed=5)


def pixels(size=48):
    """Offsets (2, size * size) of the pixels from the centre."""
    axis = np.arange(size) - (size - 1) / 2
    return np.stack([v.ravel() for v in np.meshgrid(axis, axis, indexing="ij")])


def warped(image, matrix, shift=(0, 0)):
    """The image whose point m went to shift + matrix m, by cubic interpolation."""
    size = len(image)
    points = np.linalg.inv(matrix) @ (pixels(size) - np.reshape(shift, (2, 1))) + (size - 1) / 2
    return map_coordinates(image, points, order=3).reshape(image.shape)


def turn_matrix(angle):
    """By the definition: right (0, 1) goes to up (-1, 0) after 90 degrees."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def differ(a, b):
    """Area where two images differ over the area of the first."""
    return np.abs(a - b).sum() / a.sum()


def test_rebuilt_from_the_truth(sample):
    truth = sample.truth
    again = draw_card(truth["suit"], truth["angle"], truth["shear"], truth[["shift_y", "shift_x"]])
    assert np.abs(again - sample.images).max() == 0
    for row in (0, 1, 77):  # alone as in company
        suit, angle, shear, *shift = truth.iloc[row]
        assert np.array_equal(draw_card(suit, angle, shear, shift), sample.images[row])


def test_form_of_the_result(sample):
    assert sample.images.shape == (2002, 48, 48) and sample.images.dtype == np.float32
    assert sample.images.min() == 0 and sample.images.max() == 1
    assert list(sample.truth.columns) == ["suit", "angle", "shear", "shift_y", "shift_x"]
    assert sample.truth["suit"].dtype == np.int64
    assert draw_card([[0, 1, 2]], np.zeros((4, 1)), size=20).shape == (4, 3, 20, 20)
    assert draw_card(0).shape == (48, 48)


@pytest.mark.parametrize("suit", ALL)
def test_quarter_turn_is_counter_clockwise(suit):
    upright = draw_card(suit)
    np.testing.assert_allclose(draw_card(suit, np.pi / 2), np.rot90(upright), atol=1e-5)
    np.testing.assert_allclose(draw_card(suit, -np.pi / 2), np.rot90(upright, -1), atol=1e-5)


@pytest.mark.parametrize("suit", ALL)
@pytest.mark.parametrize("angle, shear", [(0, 20), (0, -20), (35, 0), (35, 20), (-100, 12)])
def test_shift_of_turn_of_shear(suit, angle, shear):
    """Against the upright card, warped by the written-out matrices at high resolution."""
    g, t = np.radians(angle), np.tan(np.radians(shear))
    turn = turn_matrix(g)
    matrix = turn @ [[1, t], [0, 1]]
    other = turn @ [[1, 0], [t, 1]]
    card = draw_card(suit, g, np.radians(shear), (5.3, -2.4), size=480)
    assert differ(card, warped(draw_card(suit, size=480), matrix, (5.3, -2.4))) < 5e-3
    if shear:  # the other axis and the other order are something else
        assert differ(card, warped(draw_card(suit, size=480), other, (5.3, -2.4))) > 0.05
    if shear and angle:
        swapped = [[1, t], [0, 1]] @ turn
        assert differ(card, warped(draw_card(suit, size=480), swapped, (5.3, -2.4))) > 0.05


@pytest.mark.parametrize("suit", ALL)
def test_whole_pixels_shift_is_a_roll(suit):
    card = draw_card(suit, 0.3, 0.2)
    moved = draw_card(suit, 0.3, 0.2, (2, -3))
    np.testing.assert_allclose(moved, np.roll(card, (2, -3), (0, 1)), atol=1e-5)


@pytest.mark.parametrize("suit", ALL)
def test_shear_moves_the_right_half_down(suit):
    y, x = pixels()
    weight = draw_card(suit, shear=0.3).ravel()
    assert weight[x > 0] @ y[x > 0] > 0 > weight[x < 0] @ y[x < 0]
    columns = draw_card(suit, shear=0.3).sum(0), draw_card(suit).sum(0)
    np.testing.assert_allclose(*columns, atol=0.4)  # columns stay columns of the same length


@pytest.mark.parametrize("suit", ALL)
def test_size_and_centre(suit):
    y, x = pixels()
    card = draw_card(suit)
    weight = card.ravel() / card.sum()
    assert abs(weight @ y) < 0.02 and abs(weight @ x) < 1e-4  # pixels
    rows, columns = np.ptp(np.nonzero(card > 0.5), axis=1) + 1
    assert 0.58 < rows / 48 < 0.66 and 0.4 < columns / 48 < 0.66
    for shear in np.radians([-20, 20]):  # stays in the inscribed circle, with the default shift
        radius = np.hypot(y, x)[draw_card(suit, 0.4, shear).ravel() > 0].max()
        assert radius + np.sqrt(2) < 24


@pytest.mark.parametrize("suit", ALL)
def test_edges_are_one_pixel_wide_at_any_size(suit):
    for size in (24, 48, 96):
        card = draw_card(suit, size=size)
        outline = 4 * np.abs(np.diff(card > 0.5, axis=0)).sum()  # more pixels than the outline
        grey = ((card > 0.1) & (card < 0.9)).sum()
        assert 0.2 < grey / outline < 0.8
    # the same shape, sampled more finely
    fine = draw_card(suit, size=480).reshape(48, 10, 48, 10).mean((1, 3))
    assert differ(fine, draw_card(suit)) < 0.06


def test_symmetries():
    upright = [draw_card(suit).astype(np.float64) for suit in ALL]
    for suit in ALL:
        assert differ(upright[suit], upright[suit][:, ::-1]) < 1e-5  # mirror
    half = [differ(card, np.rot90(card, 2)) for card in upright]
    assert half[DIAMOND] < 1e-5
    assert min(half[CLUB], half[HEART], half[SPADE]) > 0.25
    assert differ(upright[DIAMOND], np.rot90(upright[DIAMOND])) > 0.25


def test_club_is_threefold_but_for_its_stem():
    club = draw_card(CLUB).astype(np.float64)
    centre = np.array([-0.0715 * 24, 0])  # of the lobes
    turns = [turn_matrix(2 * np.pi / 3 * k) for k in range(3)]
    copies = [warped(club, turn, centre - turn @ centre) for turn in turns]
    assert differ(club, copies[1]) > 0.25
    y, x = pixels().reshape(2, 48, 48)
    without_stem = np.median(copies, axis=0)
    assert differ(club, np.where((y > 4) & (np.abs(x) < 6), club, without_stem)) < 0.03


def test_suits_are_told_apart_at_any_angle():
    turns = np.radians(np.arange(0, 360, 5))
    for suit in ALL:
        for other in set(ALL) - {suit}:
            nearest = min(differ(draw_card(suit), card) for card in draw_card(other, turns))
            assert nearest > 0.1, (SUITS[suit], SUITS[other])
    upside_down = differ(draw_card(HEART), draw_card(SPADE, np.pi))
    assert upside_down < differ(draw_card(HEART), draw_card(SPADE))


def test_smooth_in_all_parameters():
    """The images change in proportion to a small step, from anywhere."""
    base = np.array([0.4, 0.1, 0.3, -0.2])

    def card(suit, values):
        return draw_card(suit, values[0], values[1], values[2:]).astype(np.float64)

    for suit in ALL:
        for step in np.eye(4) * [0.02, 0.02, 0.1, 0.1]:
            whole = card(suit, base + step) - card(suit, base - step)
            half = card(suit, base + step / 2) - card(suit, base - step / 2)
            assert np.abs(whole - 2 * half).max() < 0.12 * np.abs(whole).max()


@pytest.mark.parametrize("rotation, shear", [(12, 1), (12, 20), (120, 1), (120, 20)])
def test_truth_is_uniform(rotation, shear):
    truth = cards(rotation, shear, 3000, size=8, shift_px=1.5, seed=1).truth
    halves = {
        "angle": np.radians(rotation), "shear": np.radians(shear), "shift_y": 1.5, "shift_x": 1.5,
    }  # fmt: skip
    for name, half in halves.items():
        assert -half <= truth[name].min() < -0.99 * half < 0.99 * half < truth[name].max() <= half
        assert kstest(truth[name], "uniform", (-half, 2 * half)).pvalue > 0.01
        assert kstest(truth[name][truth["suit"] == HEART], "uniform", (-half, 2 * half))[1] > 0.01
    correlation = truth[list(halves)].corr().to_numpy() - np.eye(4)
    assert np.abs(correlation).max() < 0.06


def test_suits_are_balanced_and_shuffled(sample):
    suit = sample.truth["suit"]
    assert sorted(np.bincount(suit)) == [500, 500, 501, 501]
    assert abs(suit.autocorr()) < 0.08


def test_seeds_and_bytes():
    first, again, other = (cards(12, 1, 16, noise=0.1, seed=seed) for seed in (3, 3, 4))
    assert first.images.tobytes() == again.images.tobytes() and first.truth.equals(again.truth)
    assert not first.truth.equals(other.truth)
    assert not np.array_equal(first.images, other.images)


def test_noise():
    clean, noisy = (cards(120, 20, 200, noise=noise, seed=2) for noise in (0.0, 0.3))
    assert clean.truth.equals(noisy.truth)
    noise = noisy.images - clean.images
    assert noisy.images.dtype == np.float32 and noisy.images.min() < -0.5  # not clipped
    assert kstest(noise.ravel(), "norm", (0, 0.3)).pvalue > 0.01
    assert noise.std() == pytest.approx(0.3, rel=5e-3)


def test_nothing_random_but_the_suit():
    plain = cards(0, 0, 8, shift_px=0)
    assert np.array_equal(plain.images, draw_card(plain.truth["suit"]))


@pytest.mark.parametrize(
    "bad",
    [
        {"rotation_deg": -1}, {"rotation_deg": 181}, {"rotation_deg": np.nan}, {"shear_deg": 46},
        {"shear_deg": -1}, {"n": 0}, {"size": 7}, {"noise": -0.1}, {"noise": np.inf},
        {"shift_px": -1}, {"shift_px": 25}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        cards(**{"rotation_deg": 12, "shear_deg": 1, "n": 4, **bad})


def test_bad_cards():
    with pytest.raises(InputError, match="unknown suit"):
        draw_card([0, 4])
    with pytest.raises(InputError, match="last axis"):
        draw_card(0, shift=1.0)
    with pytest.raises(InputError, match="size"):
        draw_card(0, size=4)
