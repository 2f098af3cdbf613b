"""The parts of a report: each looks at the findings and yields blocks, or raises what it lacks."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from atomvae.errors import InputError
from atomvae.maps import figures as draw
from atomvae.maps.backdrop import close_up
from atomvae.maps.quality import Quality, judge_detection
from atomvae.run.report_data import MOST_KINDS, MOST_LATENTS, Findings, seconds
from atomvae.run.report_page import Block, Listing, Note, Picture, Points, Table, Text
from atomvae.run.stages import STAGES

Part = Callable[[Findings], Iterator[Block]]
MANIFOLD_SIDE = 9  # pictures along a side
MOST_POINTS = 50_000  # of a cloud


def warning_part(run: Findings) -> Iterator[Block]:
    """What must be known before a picture is trusted."""
    for text in run.warnings:
        yield Note(text, warns=True)


def movie_part(run: Findings) -> Iterator[Block]:
    """Frames, as they are and with atoms."""
    table = None
    if run.markers["detect"]:
        try:
            table = run.table
        except InputError as error:
            yield Note(f"Without atoms: {error}.")
    caption = "as they are, with grey levels of their own"
    if table is not None:
        caption += "; a ring around every atom that was found"
        if "origin" in table and (table["origin"] == 1).any():
            caption += " (blue: in the pixels, orange: suggested by the lattice and borne out)"
    for number in run.shown:
        movie = run.movie(number)
        rows = None if table is None else run.of_movie(table, number)
        frames = run.frames(movie)
        middle = " Rings in the middle alone (white frame), which is enlarged."
        yield Picture(
            f"movie{number or ''}", draw.draw_frames(movie, rows, frames, width=run.panel),
            f"Frames {', '.join(map(str, frames))} of {movie.name}, with a ring around every atom",
            f"{movie.name}: frames {caption}.{middle if close_up(movie, rows) else ''}",
        )  # fmt: skip


def map_part(run: Findings) -> Iterator[Block]:
    """Latents, angle, classes and errors on the lattice, one scale each."""
    table = run.latents
    movies = [(run.backdrop(number), run.of_movie(table, number)) for number in run.shown]
    names = run.contents[:MOST_LATENTS]
    if run.contents[MOST_LATENTS:]:
        yield Text(f"The first {MOST_LATENTS} of {len(run.contents)} latents are shown.")
    words = dict.fromkeys(names, "One colour scale for all frames.")
    if "angle" in table:
        folded = run.order > 1 and "angle_folded" in table
        words["angle_folded" if folded else "angle"] = (
            "Orientation of each atom's surroundings"
            + (f", modulo {360 / run.order:g}° for the {run.order}-fold motif" if folded else "")
            + ". Counter-clockwise is positive; which direction is zero is the model's choice."
        )
    for name in run.kinds:
        unknown = (table[name].astype(str) == "-1").any()
        words[name] = "Kinds of atoms" + (", grey: unknown." if unknown else ".")
    if "reconstruction_error" in table:
        words["reconstruction_error"] = (
            "How badly the model draws each patch, in units of the noise that it has learnt. What "
            "stands out is what it has not learnt to draw."
        )
    for name, caption in words.items():
        for number, (movie, rows) in enumerate(movies):
            frames = run.frames(movie)
            figure = draw.draw_map(movie, rows, name, frames, of=table, width=run.panel)
            what = f"{name} of {movie.name}" if number or len(movies) > 1 else name
            yield Picture(
                file_name(f"map_{name}{number or ''}"), figure,
                f"{what}: colour of every atom in frames {', '.join(map(str, frames))}",
                f"{what}." if number else f"{what}. {caption}",
            )  # fmt: skip


def file_name(text: str) -> str:
    """Name of a file from any text.

    Examples
    --------
    >>> file_name("map_../a b")
    'map____a_b'
    """
    return re.sub(r"\W", "_", text)


def manifold_part(run: Findings) -> Iterator[Block]:
    """What the model draws over its latent space."""
    grids, axes, pixel_nm = manifold_grids(run)
    kinds = f" for each of {len(grids)} classes" if len(grids) > 1 else ""
    # The first latent grows upwards, as in the cloud of atoms beside it.
    upward = {title: images[::-1] for title, images in grids.items()}
    rising = {name: v if k else v[::-1] for k, (name, v) in enumerate(axes.items())}
    yield Picture(
        "manifold", draw.draw_manifold(upward, axes=rising, pixel_nm=pixel_nm),
        f"Grid of images that the model draws over {' and '.join(axes)}{kinds}",
        f"What the model draws, without turn and shift, over the values of {' and '.join(axes)} "
        f"that occur in the data{kinds}. Compare with the cloud of atoms: where there are no "
        "atoms, pictures are guesses.",
    )  # fmt: skip


def manifold_grids(
    run: Findings,
) -> tuple[dict[str, Any], dict[str, Any], float | None]:
    """Decode even grids over the range of the latents: images by class, values along the axes."""
    from atomvae.latent import Categorical
    from atomvae.maps.style import robust_limits
    from atomvae.model.decode import content_columns, decode

    model, table = run.model, run.latents
    columns = content_columns(model)
    values = {
        name: np.linspace(*robust_limits(table[name], 0.5), MANIFOLD_SIDE) for name in columns[:2]
    }
    middle = table[columns].median().to_numpy(np.float64)
    sides = [*(len(v) for v in values.values()), 1][:2]
    z = np.broadcast_to(middle, (*sides, len(columns))).copy()
    for k, grid in enumerate(np.meshgrid(*values.values(), indexing="ij")):
        z[..., k] = grid.reshape(sides)
    kinds = [f for f in model.content if isinstance(f, Categorical)]
    count = min(kinds[0].size, MOST_KINDS) if len(kinds) == 1 else 1
    grids: dict[str, Any] = {}
    for k in range(count):
        label = np.full(max(len(kinds), 1), k)
        images = decode(model, z.reshape(-1, len(columns)), label=label)
        images = images[:, 0] if images.ndim == 4 else images
        title = f"{kinds[0].name} {k}" if count > 1 else ""
        grids[title] = images.reshape(*sides, *images.shape[1:])
    return grids, values, run.folder.patches().pixel_nm


def cloud_part(run: Findings) -> Iterator[Block]:
    """Where the atoms lie in the latent space."""
    table, names = run.latents, run.contents
    many = len(table) > MOST_POINTS
    some = table.sample(MOST_POINTS, random_state=0) if many else table
    said = f"{MOST_POINTS} atoms drawn at random" if many else "Every atom of every frame"
    if len(names) > 1:
        color = next(iter(run.kinds), "amplitude" if "amplitude" in table else "frame")
        why = {"amplitude": " (the height of the atom in the fit)"}
        yield Picture(
            "latents", draw.draw_latents(some, x=names[1], y=names[0], color=color),
            f"Cloud of the atoms over {names[1]} and {names[0]}, coloured by {color}",
            f"{said}, coloured by {color}{why.get(color, '')}. Clusters are kinds of surroundings.",
        )  # fmt: skip
    yield Picture(
        "distributions", draw.draw_distributions(table, names[:MOST_LATENTS]),
        f"Histograms of {', '.join(names[:MOST_LATENTS])}",
        "How the latents are distributed, over all atoms.",
    )  # fmt: skip


def angle_part(run: Findings) -> Iterator[Block]:
    """Distribution of the angles, folded by the symmetry."""
    table = run.latents
    if "angle" not in table:
        return
    measured = run.figures("map")
    confidence = measured.get("confidence")
    sure = f" (confidence {confidence:.2f})" if isinstance(confidence, int | float) else ""
    columns = [c for c in ("angle", "angle_folded", "angle_n") if c in table]
    one = run.order == 1
    yield Picture(
        "angles", draw.draw_angles(table[["angle"]] if one else table[columns]),
        "Histogram of the angles" + ("" if one else ", and of the angles folded by the symmetry"),
        "Angles of the motif, which has no rotational symmetry or no direction."
        if one
        else f"The motif is {run.order}-fold{sure}, so only the angle modulo "
        f"{360 / run.order:g}° means anything.",
    )  # fmt: skip


def time_part(run: Findings) -> Iterator[Block]:
    """What changes from frame to frame."""
    table = run.of_movie(run.latents)
    if table["frame"].nunique() < 2:
        yield Text("There is one frame with atoms, so nothing to say of time.")
        return
    seconds_each = run.first.frame_time
    each = "" if seconds_each is None else f" A frame is {seconds_each:.4g} s."
    yield Picture(
        "evolution", draw.draw_evolution(table, run.contents[:3]),
        f"Distribution of {', '.join(run.contents[:3])} in each frame",
        "Distribution in each frame; colours go with the root of the share, so that rare kinds "
        f"of surroundings are seen, too.{each}",
    )  # fmt: skip
    if not run.kinds:
        yield Text(
            "Atoms are not sorted into classes here; with a model that has classes (jrvae) their "
            "shares in time would follow."
        )
    for name in run.kinds:
        yield Picture(
            file_name(f"share_{name}"), draw.draw_fractions(table, name),
            f"Share of the atoms of each {name} over frames",
            f"Share of the atoms by {name}, with 95 % intervals (Wilson) of counting alone.{each}",
        )  # fmt: skip


def example_part(run: Findings) -> Iterator[Block]:
    """Patches and what the model makes of them."""
    from atomvae.model.draw import reconstruct, seen_pixels

    store, error = run.examples(3)
    images = reconstruct(run.model, store, device="cpu")
    patches, mask = store.load()
    seen = mask & seen_pixels(run.model)
    patches, images = patches[:, 0], images[:, 0] if images.ndim == 4 else images
    yield Picture(
        "reconstructions",
        draw.draw_reconstructions(
            np.where(mask, patches, np.nan), images, error=error, seen=seen,
            pixel_nm=store.pixel_nm,
        ),
        "Patches, their reconstructions and what is left: three best, three median, three worst",
        "The three best, median and worst patches, with their reconstruction errors in units of "
        "the noise that the model has learnt. Each patch and its reconstruction have grey levels "
        "of their own. Residuals should look like noise; white is beyond the disc in which patches "
        "are compared, or beyond the frame.",
    )  # fmt: skip


def loss_part(run: Findings) -> Iterator[Block]:
    """How the model was trained."""
    yield Picture(
        "losses", draw.draw_losses(run.history),
        "Terms of the loss against the epoch",
        "Terms of the loss: nll is the misfit of the pixels, those with the names of latents what "
        "these cost. A ring marks the best bound of the held-out patches: that model was kept.",
    )  # fmt: skip


def quality_part(run: Findings) -> Iterator[Block]:
    """What can be said of the detection, and what can't."""
    quality = judge_detection(run.table, n_frames=run.n_frames)
    yield Points(tuple(quality_sentences(quality, run.figures("detect"), run.pixel_size)))
    yield Picture(
        "counts", draw.draw_counts(run.table, n_frames=run.n_frames),
        "Number of atoms in each frame",
        "Atoms of each frame. Steps may be drift, damage, or misses.",
    )  # fmt: skip
    if {"y_sd", "x_sd"} <= set(run.table):
        yield Picture(
            "errors", draw.draw_errors(run.table, pixel_size=run.pixel_size),
            "Histogram of the standard deviations of the positions",
            "Error bars of the positions, from the fit's Fisher information.",
        )  # fmt: skip
    yield Picture(
        "spacings", draw.draw_spacings(run.of_movie(run.table), pixel_size=run.pixel_size),
        "Histogram of the distances to the nearest atom",
        "Distance to the nearest atom. A peak far below the main one would be atoms found twice.",
    )  # fmt: skip


def quality_sentences(
    quality: Quality, figures: Mapping[str, Any], pixel_size: tuple[float, float] | None
) -> Iterator[str]:
    """Put the quality of a detection in words, claiming no more than is known.

    Examples
    --------
    >>> next(quality_sentences(Quality(atoms=2, frames=1, per_frame=(2, 2.0, 2)), {}, None))
    '2 atoms in 1 frame, 2 in each.'
    """
    low, middle, high = quality.per_frame
    each = f"{low} in each" if low == high else f"{low} to {high} a frame, median {middle:g}"
    yield f"{quality.atoms} atoms in {quality.frames} frame{'s'[: quality.frames > 1]}, {each}."
    if "recall" in figures:
        yield (
            f"Against the truth of the simulation: {100 * figures['recall']:.1f} % of the true "
            f"atoms were found, {100 * figures['precision']:.1f} % of those found are true."
        )
    else:
        yield (
            "No truth is known here, so recall can't be measured; what follows are signs, not "
            "proofs."
        )
    if quality.refound is not None:
        share, least, most = (100 * value for value in quality.refound)
        yield (
            f"Of the atoms seen in the frame before and in the frame after, {share:.1f} % were "
            f"also found in between (95 % interval {least:.1f} to {most:.1f} %). Atoms that are "
            "missed in every frame don't show in this number."
        )
    if np.isfinite(quality.sd_px):
        length = f"{quality.sd_px:.3g} px"
        if pixel_size is not None:
            length = f"{1000 * quality.sd_px * float(np.mean(pixel_size)):.3g} pm ({length})"
        yield f"The median error bar of a coordinate is {length}."
    if quality.jitter is not None:
        yield (
            f"From frame to frame, positions scatter {quality.jitter:.2g} times as much as their "
            "error bars alone would make them: 1 means that the error bars explain all; more is "
            "motion of atoms or of the scan; less comes of ties to the lattice."
        )
    if quality.suggested:
        yield (
            f"{100 * quality.suggested:.1f} % of the atoms were suggested by the lattice and kept "
            "because the pixels bear them out."
        )
    for text, count in quality.flags:
        yield f"{count} atoms ({100 * count / quality.atoms:.1f} %) are flagged as {text}."


def drift_part(run: Findings) -> Iterator[Block]:
    """How the sample drifted, if it is a movie."""
    drift = run.of_movie(run.folder.read_parquet("drift"))
    if len(drift) > 1:
        yield Picture(
            "drift", draw.draw_drift(drift, pixel_size=run.pixel_size),
            "Drift along y and x against the frame",
            "Where the sample lies, relative to the first frame.",
        )  # fmt: skip


def stage_part(run: Findings) -> Iterator[Block]:
    """What was done, when, how long it took."""
    rows = []
    for stage in STAGES:
        marker = run.markers[stage.name]
        said = str(run.figures(stage.name).get("summary", "")) if marker else "not done"
        started = str(marker.get("started", ""))[:16].replace("T", " ")
        rows.append((stage.name, started, seconds(marker.get("seconds")), said))
    yield Table(("stage", "started", "time", "result"), tuple(rows))
    sources = run.figures("import").get("sources", {})
    if sources:
        yield Table(("movie", "SHA-256"), tuple((str(k), str(v)) for k, v in sources.items()))


def version_part(run: Findings) -> Iterator[Block]:
    """With what it was done."""
    found: dict[str, list[str]] = {}
    for marker in run.markers.values():
        for package, version in (marker.get("versions") or {}).items():
            if str(version) not in found.setdefault(str(package), []):
                found[str(package)].append(str(version))
        if "seed" in marker and str(marker["seed"]) not in found.setdefault("seed", []):
            found["seed"].append(str(marker["seed"]))
    if found:
        each = (f"{name} {', then '.join(versions)}" for name, versions in found.items())
        yield Text(f"Made with {', '.join(each)}.")


def settings_part(run: Findings) -> Iterator[Block]:
    """All settings, and what the log complained of."""
    path = run.folder.private / "config.yaml"
    if path.exists():
        yield Listing("All settings, as YAML", path.read_text("utf-8", errors="replace"))
        yield Text(
            f"To look at it in napari: atomvae view {run.folder.path.name}. To go on with it, or "
            f"to change a setting: atomvae run {run.folder.path.name} --set KEY=VALUE."
        )
    else:
        yield Note("The settings are missing (.atomvae/config.yaml).")
    log = run.log()
    if log:
        yield Listing(f"Warnings and errors of the log ({len(log)})", "\n".join(log))


PARTS: tuple[tuple[str, tuple[Part, ...]], ...] = (
    ("Mind this", (warning_part,)),
    ("The movie and its atoms", (movie_part,)),
    ("On the lattice", (map_part,)),
    ("What the model has learnt", (manifold_part, cloud_part, angle_part)),
    ("In time", (time_part,)),
    ("How well the model draws", (example_part, loss_part)),
    ("How well atoms were found", (quality_part, drift_part)),
    ("How it was made", (stage_part, version_part, settings_part)),
)
"""Title of each section and what it is made of."""
