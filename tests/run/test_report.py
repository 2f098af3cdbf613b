"""The report of a run, whole, partial, damaged, moved, foreign."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import atomvae
from atomvae.errors import InputError
from atomvae.maps.quality import Quality, judge_detection
from atomvae.movie.movie import Movie
from atomvae.run.cli import main
from atomvae.run.folder import RunFolder
from atomvae.run.report import find_sections, report, report_figures
from atomvae.run.report_data import Findings
from atomvae.run.report_page import Note, Picture, Section, Table, Text, write_page
from atomvae.run.report_sections import quality_sentences

FIGURES = {
    "movie", "map_z_0", "map_z_1", "map_angle_folded", "map_reconstruction_error", "manifold",
    "latents", "distributions", "angles", "evolution", "reconstructions", "losses", "counts",
    "errors", "spacings", "drift",
}  # fmt: skip


class Page(HTMLParser):
    """What a file of HTML holds: tags with their attributes, text outside of the style."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        self.words += "" if self._style else f"{data} "

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(run, **places) -> Page:
    return Page(report(run, **places).read_text(encoding="utf-8"))


def images(page: Page) -> list[np.ndarray]:
    found = []
    for image in page.all("img"):
        head, code = image["src"].split(",", 1)
        assert head in ("data:image/png;base64", "data:image/webp;base64")
        found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")))
    return found


def found(run) -> tuple[set[str], str]:
    """Names of the figures of a report and all its words, without drawing it."""
    blocks = [b for section in find_sections(Findings(RunFolder(run))) for b in section.blocks]
    words = " ".join(str(b.words) for b in blocks if not isinstance(b, Picture | Table))
    return {b.name for b in blocks if isinstance(b, Picture)}, words


@pytest.fixture(scope="module")
def threefold(small_run, tmp_path_factory):
    """A finished run whose motif is threefold, whatever two epochs have made of it."""
    path = tmp_path_factory.mktemp("threefold") / small_run.name
    folder = RunFolder(shutil.copytree(small_run, path))
    table = folder.table()
    folder.write_parquet("atoms", table.assign(angle_folded=table["angle"] % 2.0, angle_n=3))
    return path


@pytest.fixture(scope="module")
def finished(threefold, tmp_path_factory):
    """A run with classes that a person gave, and its report."""
    path = tmp_path_factory.mktemp("reported") / threefold.name
    folder = RunFolder(shutil.copytree(threefold, path))
    some = folder.atoms().iloc[::3]
    folder.write_parquet("labels", some[["atom_id", "frame", "y", "x"]].assign(label="a $ b"))
    return path, page_of(path)


@pytest.fixture
def copy(threefold, tmp_path):
    return shutil.copytree(threefold, tmp_path / threefold.name)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run of two frames with atoms that are known, without a model; `frames` lie in a file."""
    folder = tmp_path_factory.mktemp("bare")
    source = folder / "frames.npy"
    np.save(source, np.random.default_rng(0).random((2, 40, 60)).astype("f4"))
    run = RunFolder.create(folder / "bare.atomvae.zarr")
    movie = Movie.from_array(np.load(source), pixel_size=0.02, name="<script>alert(1)<script>")
    run.write_movie(movie, source={"path": str(source), "pixel_size": 0.02}, copy=False)
    run.set_movies([movie.name])
    table = pd.DataFrame({"frame": [0, 0, 1], "y": [10.0, 20, 10], "x": [9.0, 30, 50]})
    run.write_atoms(table.assign(atom_id=range(3)), [2])
    run.write_marker("import", {"figures": {"frames": 2, "warnings": ["<b>odd</b> & bad"]}})
    run.write_marker("detect", {"figures": {"atoms": 3, "summary": "</td><script>alert(2)"}})
    return run.path


def test_a_finished_run_is_shown_whole(finished):
    path, page = finished
    shown = {p.stem for p in (path / ".atomvae/pictures").iterdir()}
    assert shown == FIGURES | {"map_label", "share_label"}
    drawn = images(page)
    assert len(drawn) == len(shown)
    assert all(min(image.shape[:2]) > 150 and image.std() > 5 for image in drawn)
    assert all(len(image["alt"]) > 15 for image in page.all("img"))
    assert "Not shown" not in page.words and "can't be drawn" not in page.words
    folder = RunFolder(path)
    marker = folder.marker("train")
    for text in (
        marker["figures"]["summary"], f"torch {marker['versions']['torch']}", "seed 3",
        f"{len(folder.atoms())} atoms in 5 frames", "Against the truth of the simulation",
        (path / ".atomvae/config.yaml").read_text(),
    ):  # fmt: skip
        assert text in page.words
    assert (path / ".atomvae/report.html").stat().st_size < 8e6


def test_nothing_is_fetched_and_nothing_executes(finished):
    _, page = finished
    assert not [t for t, _ in page.tags if t in ("script", "iframe", "object", "embed", "base")]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:")), (tag, name, target[:60])
    policy = next(m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    targets = {a["id"] for _, a in page.tags if "id" in a}
    assert {link["href"][1:] for link in page.all("a")} == targets != set()


def test_foreign_words_stay_words(bare, tmp_path):
    page = page_of(bare, out=tmp_path / "r.html")
    assert not page.all("script") and not page.all("b")
    assert "<b>odd</b> & bad" in page.words and "</td><script>alert(2)" in page.words
    assert "<script>alert(1)<script>" in page.all("img")[0]["alt"]
    evil = '"><img src=x onerror=alert(1)>'
    section = Section(evil, (Text(evil), Note(evil), Table((evil,), ((evil,),))))
    html, _ = write_page(evil, evil, [(evil, evil)], [section])
    assert not Page(html).all("img") and Page(html).words.count(evil) == 11


def test_a_run_without_a_model_shows_its_atoms(bare, tmp_path):
    page = page_of(bare, out=tmp_path / "r.html", pictures=tmp_path / "figures")
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert names == {"movie", "counts", "spacings"} and len(images(page)) == 3
    assert not (bare / ".atomvae/pictures").exists()  # only where it was asked for
    assert page.words.count("there are no latents yet; run the stages up to map") == 3
    assert "Not done yet: drift, link, patches, train, encode, map." in page.words
    assert "recall can't be measured" in page.words


def test_a_movie_that_is_gone_leaves_the_maps(bare, tmp_path):
    run = shutil.copytree(bare, tmp_path / "moved" / bare.name)
    folder = RunFolder(run)
    table = folder.atoms().assign(z_0=[0.0, 1, 2], z_0_sd=0.1, angle=0.2)
    folder.write_parquet("atoms", table)
    folder.write_marker("map", {"figures": {}})
    text = json.loads((run / "images" / folder.movies[0] / "zarr.json").read_text())
    text["attributes"]["atomvae"]["source"] = {"path": "/nowhere/frames.npy"}
    (run / "images" / folder.movies[0] / "zarr.json").write_text(json.dumps(text))
    names, words = found(run)
    assert "their file is gone (expected /nowhere/frames.npy)" in words
    assert {"map_z_0", "map_angle", "distributions", "angles", "counts"} <= names
    assert "movie" not in names
    axis = report_figures(run)["map_z_0"].axes[0]
    assert axis.get_xlim() == pytest.approx((-0.01, 1.19))  # 60 px of 0.02 nm


def test_a_moved_run_has_the_same_report(copy, threefold, tmp_path):
    moved = shutil.move(copy, tmp_path / "elsewhere.atomvae.zarr")
    names, words = found(moved)
    assert names == FIGURES
    assert words == found(threefold)[1].replace(threefold.name, moved.name)


@pytest.mark.parametrize(
    ("lost", "lacks", "says"),
    [
        (".atomvae/models", {"manifold", "reconstructions"}, "model"),
        ("patches", {"manifold", "reconstructions"}, "patches"),
        (".atomvae/tables/drift.parquet", {"drift"}, "drift.parquet is missing"),
        ("atoms/y", set(), ""),  # the joined table has it, too
        ("models", {"losses"}, "holds no readable Zarr group"),
        (".atomvae/config.yaml", set(), "The settings are missing"),
    ],
)
def test_what_is_lost_is_said_and_the_rest_is_shown(copy, lost, lacks, says):
    place = copy / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    names, words = found(copy)
    assert names == FIGURES - lacks
    assert says in words and words.count("Not shown:") == len(lacks)


def test_damage_of_other_kinds_is_survived(copy):
    (copy / ".atomvae/tables/atoms.parquet").write_bytes(b"PAR1 no more")
    (copy / ".atomvae/stages/detect.json").write_text("[1, 2")
    for name in ("train", "link"):
        (copy / f".atomvae/stages/{name}.json").write_text(
            '{"needs": 3, "versions": [], "seconds": "x"}'
        )
    page = page_of(copy)
    assert "atoms.parquet is damaged" in page.words and len(images(page)) >= 1
    assert "Traceback" not in page.words


def test_a_damaged_frame_leaves_the_maps(copy):
    chunk = sorted((copy / "images").glob("*/0/data/c/4/0/0"))[0]
    chunk.write_bytes(b"no more")
    names, words = found(copy)
    assert names == FIGURES - {"movie"} and words.count("Not shown:") == 1


def test_an_older_part_is_said_to_be_old(copy):
    folder = RunFolder(copy)
    folder.write_marker("patches", folder.marker("patches") | {"key": "other"})
    assert "train was made from an older patches; run the pipeline again." in found(copy)[1]


def test_latents_that_say_nothing_are_named(copy):
    folder = RunFolder(copy)
    spread = np.linspace(-1, 1, len(folder.table()))
    table = folder.table().assign(z_0=spread, z_0_sd=0.1, z_1=spread, z_1_sd=0.9)
    folder.write_parquet("atoms", table)
    words = found(copy)[1]
    assert "z_1 says little" in words and "z_0 says little" not in words


def test_several_movies_and_classes(tmp_path):
    run = RunFolder.create(tmp_path / "batch.atomvae.zarr")
    rng = np.random.default_rng(0)
    for name, pixel in (("one", 0.05), ("two", 0.1)):
        run.write_movie(Movie.from_array(rng.random((3, 32, 32)), pixel_size=pixel, name=name))
    run.set_movies(["one", "two"])
    frame, movie = np.tile(np.repeat([0, 1, 2], 20), 2), np.repeat([0, 1], 60)
    table = pd.DataFrame(
        {
            "atom_id": np.arange(120), "movie": movie, "frame": frame, "y": rng.uniform(0, 31, 120),
            "x": rng.uniform(0, 31, 120), "z_0": rng.normal(size=120), "kind": movie,
            "kind_p": 1.0, "kind_name": np.where(movie, "<i>", "$x"),
        }
    )  # fmt: skip
    run.write_atoms(table[["atom_id", "movie", "frame", "y", "x"]], [3, 3])
    run.write_parquet("atoms", table)
    for stage in ("import", "detect", "map"):
        run.write_marker(stage, {"figures": {"frames": 6}})
    _, words = found(run.path)
    assert "This run has 2 movies. One frame is shown of each of one, two;" in words
    assert "120 atoms in 6 frames, 20 in each." in words
    assert ("field of view", "1.6 × 1.6 nm, 3.2 × 3.2 nm") in Findings(run).facts
    figures = report_figures(run.path)
    assert {"movie", "movie1", "map_z_0", "map_z_01", "share_kind_name"} <= set(figures)
    assert "map_kind" not in figures  # it has names
    share = figures["share_kind_name"].axes[0].lines[0]
    np.testing.assert_array_equal(share.get_ydata(), [1, 1, 1])  # of the first movie
    first, second = figures["map_kind_name"].axes, figures["map_kind_name1"].axes
    for axes in (first, second):  # one scale for both, though each has one kind
        assert [t.get_text() for t in axes[-1].get_yticklabels()] == ["<i>", r"\$x"]
    kinds = [axes[0].collections[0].get_array() for axes in (first, second)]
    assert set(kinds[0]) == {1} and set(kinds[1]) == {0} and len(kinds[1]) == 20


def test_places_and_errors(bare, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(bare), "--out", str(tmp_path / "deep" / "r.html")])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "deep" / "r.html")
    assert (tmp_path / "deep" / "r.html").stat().st_size > 10_000
    with pytest.raises(InputError, match="name an HTML file"):
        report(bare, tmp_path)
    with pytest.raises(InputError, match="is no folder; expected a run folder"):
        report(tmp_path / "nothing.atomvae.zarr")
    with pytest.raises(InputError, match="name another place"):
        report(bare, "/proc/nowhere/r.html")
    assert atomvae.report is report and atomvae.report_figures is report_figures


def test_a_figure_that_cannot_be_drawn_is_a_sentence():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    figure.text(0, 0, r"$\nosuch$")
    html, pictures = write_page("t", "", [], [Section("s", (Picture("odd", figure, "a", "c"),))])
    assert not pictures and "The figure odd can't be drawn" in Page(html).words


def test_quality_measures_what_it_says():
    """Atoms that are missed at random, that move as their error bars say, with known numbers."""
    rng = np.random.default_rng(0)
    track, frame = (v.ravel() for v in np.mgrid[:100, :50])
    sd = rng.uniform(0.05, 0.3, track.size)
    table = pd.DataFrame(
        {
            "frame": frame, "track": track,
            "y": track + rng.normal(size=track.size) * sd + frame**1.5,
            "x": 3.0 * track + rng.normal(size=track.size) * sd, "y_sd": sd, "x_sd": sd,
            "origin": (rng.random(track.size) < 0.25).astype(int), "flag": 8 * (track == 0),
        }
    )  # fmt: skip
    seen = table[rng.random(len(table)) < 0.9]
    quality = judge_detection(seen, n_frames=60)
    share, low, high = quality.refound
    assert low < 0.9 < high and high - low < 0.03 and share == pytest.approx(0.9, abs=0.015)
    assert quality.jitter == pytest.approx(1, abs=0.03)
    motion = rng.normal(size=(2, len(seen)))
    moved = judge_detection(seen.assign(y=seen["y"] + motion[0], x=seen["x"] + motion[1]))
    assert moved.jitter > 4
    assert quality.frames == 60 and quality.per_frame[0] == 0  # ten frames without atoms
    assert quality.suggested == pytest.approx(0.25, abs=0.02)
    words = " ".join(quality_sentences(quality, {}, (0.01, 0.01)))
    assert "recall can't be measured" in words and "pm (" in words
    assert f"{int((seen['track'] == 0).sum())} atoms" in words and "flagged as faint" in words
    known = quality_sentences(Quality(3, 1, (3, 3.0, 3)), {"recall": 0.5, "precision": 1.0}, None)
    assert "50.0 % of the true atoms were found" in " ".join(known)
