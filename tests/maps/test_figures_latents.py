"""Clouds of points, t-SNE, colours and the course of a training."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle
from skimage.color import rgb2lab
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from atomvae.datasets.digits import digits
from atomvae.errors import InputError
from atomvae.maps.figures import draw_latents, draw_losses, draw_tsne, embed_tsne
from atomvae.maps.losses import training_phases
from atomvae.maps.style import COLOURS, CYCLE, is_kind, label
from atomvae.model import zoo


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "z_0": rng.normal(size=300), "z_1": rng.normal(size=300), "frame": np.arange(300) // 30,
            "angle": rng.uniform(-np.pi, 3 * np.pi, 300), "angle_sd": rng.uniform(0.01, 0.4, 300),
            "class": rng.integers(-1, 3, 300), "suit": rng.choice(["heart", "spade"], 300),
        }
    )  # fmt: skip


# What dichromats see (severity 1): Machado, Oliveira, Fernandes, IEEE TVCG 15 (2009) 1291.
BLIND = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "nobody": np.eye(3),
}


@pytest.mark.parametrize("kind", BLIND)
def test_the_colour_blind_tell_angles_apart(kind):
    assert CYCLE(0.0) == CYCLE(1.0)
    rgb = CYCLE(np.linspace(0, 1, 72, endpoint=False))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLIND[kind]), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(seen[None])[0]
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    steps = np.arange(72)
    arc = 5 * np.abs((steps[:, None] - steps + 36) % 72 - 36)  # degrees
    assert distance[arc >= 30].min() > 10
    assert distance[arc >= 90].min() > 30
    assert lab[:, 0].max() < 88  # still seen on white


def test_latents_keep_colour_with_point(table):
    axis = draw_latents(table, color="z_1").axes[0]
    dots = axis.collections[0]
    np.testing.assert_allclose(dots.get_offsets()[:, 1], dots.get_array())
    assert sorted(dots.get_array()) == sorted(table["z_1"])
    assert len(draw_latents(table).axes) == 1


def test_angles_are_in_degrees_as_axis_and_as_colour(table):
    axis = draw_latents(table, x="angle", y="angle_sd", color="angle").axes[0]
    dots, places = axis.collections[0], axis.collections[0].get_offsets()
    assert axis.get_xlabel() == "angle (deg)" and axis.get_ylabel() == "angle_sd (deg)"
    np.testing.assert_allclose(places[:, 0], dots.get_array())
    wrapped = np.degrees(np.angle(np.exp(1j * table["angle"])))
    np.testing.assert_allclose(sorted(dots.get_array()), sorted(wrapped))
    np.testing.assert_allclose(sorted(places[:, 1]), sorted(np.degrees(table["angle_sd"])))
    assert dots.get_cmap() == CYCLE and dots.get_clim() == (-180, 180)
    spread = draw_latents(table, color="angle_sd").axes[0].collections[0]
    assert 10 < spread.get_clim()[1] < 23  # degrees, not radians


def test_kinds_have_names_as_well_as_colours(table):
    for column, names in (("class", ["-1", "0", "1", "2"]), ("suit", ["heart", "spade"])):
        figure = draw_latents(table, color=column)
        assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == names
        assert sorted(t.get_text() for t in figure.axes[0].texts) == names
        dots = figure.axes[0].collections[0]
        first = dots.to_rgba([0])[0, :3]
        assert to_hex(first) == ("#999999" if column == "class" else COLOURS[0])
    frames = draw_latents(table, color="frame")
    assert not frames.axes[0].texts and frames.axes[0].collections[0].get_cmap().name == "viridis"


def test_classes_of_a_model_are_kinds_whatever_their_name(table):
    assert not is_kind(table.assign(defect=table["class"]), "defect")
    assert is_kind(table.assign(defect=table["class"], defect_p=1.0), "defect")


def test_units_of_columns():
    expected = {
        "angle": "angle (deg)", "angle_p": "angle_p", "angle_n": "angle_n", "x": "x (px)",
        "shift_x": "shift_x (px)", "shift_x_nm": "shift_x (nm)", "rotation": "rotation (deg)",
        "shear": "shear", "tsne_0": "t-SNE 1",
        "reconstruction_error": "reconstruction error (noise sd)",
    }  # fmt: skip
    assert {name: label(name) for name in expected} == expected


@pytest.fixture(scope="module")
def pixels():
    """300 digits as rows of 64 pixels."""
    source = digits()
    rows = np.random.default_rng(0).choice(len(source.images), 300, replace=False)
    flat = source.images[rows].reshape(300, 64)
    table = pd.DataFrame(flat, columns=[f"z_{i}" for i in range(64)], index=rows)
    return table.assign(label=source.label[rows], angle=0.0, z_0_sd=1.0)


def test_tsne_keeps_neighbours_and_digits_apart(pixels):
    laid = embed_tsne(pixels)
    assert laid.index.equals(pixels.index) and laid["label"].equals(pixels["label"])
    plane, wide = laid[["tsne_0", "tsne_1"]], pixels.filter(regex=r"^z_\d+$")
    assert trustworthiness(wide, plane) >= 0.95
    assert trustworthiness(wide, plane.sample(frac=1, random_state=0)) < 0.6
    near = NearestNeighbors(n_neighbors=6).fit(plane).kneighbors(plane)[1][:, 1:]
    digit = pixels["label"].to_numpy()
    assert (digit[near] == digit[:, None]).mean() > 0.85
    again = embed_tsne(pixels)
    assert again["tsne_0"].equals(laid["tsne_0"])


def test_tsne_of_some_rows(table):
    spoiled = table.assign(z_1=table["z_1"].where(table.index > 20))
    some = embed_tsne(spoiled, n=50, seed=3)
    assert len(some) == 50 and some.index.is_monotonic_increasing and some.index.min() > 20
    assert not some.index.equals(embed_tsne(spoiled, n=50, seed=4).index)
    assert len(embed_tsne(table.iloc[:5], ["z_0"])) == 5
    with pytest.raises(InputError, match=r"found 3 rows .* at least 4"):
        embed_tsne(table.iloc[:3])
    with pytest.raises(InputError, match=r"finite values of \[\]"):
        embed_tsne(table[["frame"]])
    with pytest.raises(InputError, match="no column 'z_7'"):
        embed_tsne(table, ["z_7"])


def test_the_figure_of_tsne_says_what_it_shows(table):
    figure = draw_tsne(table, ["angle", "class"], n=60, perplexity=10, seed=2)
    laid = embed_tsne(table, n=60, perplexity=10, seed=2)
    first, second = figure.axes[:2]
    dots = first.collections[0]
    order = np.argsort(dots.get_offsets()[:, 0])
    by_place = laid.sort_values("tsne_0")
    np.testing.assert_allclose(dots.get_offsets()[order, 1], by_place["tsne_1"], rtol=1e-6)
    wrapped = np.degrees(np.angle(np.exp(1j * by_place["angle"])))
    np.testing.assert_allclose(dots.get_array()[order], wrapped)
    assert sorted(t.get_text() for t in second.texts) == ["-1", "0", "1", "2"]
    assert not len(first.get_xticks()) and not len(first.get_yticks())
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "t-SNE of z_0, z_1: 60 of 300 rows, seed 2, perplexity 10." in caption
    assert "sizes of clusters and distances between them don't" in caption
    with pytest.raises(InputError, match="no column 'suits'"):
        draw_tsne(table, "suits")


def test_losses_are_the_columns_of_the_history():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "gate": 1.0, "z": [0.0, 1.0, 3.0], "held_out": [-9.0, -6.0, -7.0]}
    )
    figure = draw_losses(history)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("z", "held_out")
    assert first.lines[0].get_ydata().tolist() == [0, 1, 3]
    ring = second.lines[1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2.0], [-6.0])
    assert not figure.legends and first.get_ylabel() == "nats per patch"
    with pytest.raises(InputError, match="no loss terms"):
        draw_losses(history[["epoch", "gate"]])


def history_of(maker, first_guess, **known):
    """A real history of a short training."""
    from atomvae.datasets.cards import cards
    from atomvae.model.config import TrainConfig
    from atomvae.model.train import train

    sample = cards(120, 1, 60, size=12)
    config = TrainConfig(epochs=8, batch_size=30, pixels=20, first_guess=first_guess)
    labels = {name: sample.truth[column] for name, column in known.items()}
    return train(maker((12, 12)), sample.images, config, known=labels)


def spans(axis):
    """Left and right ends of the grounds behind the curves."""
    found = []
    for patch in axis.patches:
        assert isinstance(patch, Rectangle | Polygon)
        x = patch.get_extents().transformed(axis.transData.inverted())
        found.append((round(x.x0, 3), round(x.x1, 3)))
    return found


def test_phases_of_real_trainings():
    gated = history_of(zoo.affine_rvae, False)
    phases = training_phases(gated)
    assert list(phases) == ["content shut", "content opens"]
    np.testing.assert_array_equal(phases["content shut"], gated["gate"] == 0)
    figure = draw_losses(gated)
    last = gated["epoch"][phases["content shut"]].max()
    assert spans(figure.axes[0])[0] == (0.5, last + 0.5)
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["content shut", "content opens"]
    assert len({axis.get_subplotspec().rowspan.start for axis in figure.axes}) == 2  # 4 in a row
    guessed = training_phases(history_of(zoo.rvae, True))["first guess taken for known"]
    assert guessed[0] and not guessed[-1]
    assert np.diff(guessed.astype(int)).max() == 0  # it ends and does not come back
    labelled = history_of(partial(zoo.ssvae, classes=4), True, **{"class": "suit"})
    guessed = training_phases(labelled)["first guess taken for known"]  # spread from the labels
    assert guessed[0] and not guessed[-1]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda t: draw_latents(t, x="z_5"), "no column 'z_5'"),
        (lambda t: draw_latents(t, color="sort"), "no column 'sort'"),
        (lambda t: draw_losses(t), "no column 'epoch'"),
    ],
)
def test_refused_at_the_door(draw, message, table):
    with pytest.raises(InputError, match=message):
        draw(table)
