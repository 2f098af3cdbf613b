"""Time to the same loss, ours and AtomAI's: `python -m tests.model.bench_train`.

Both models are judged on the same images held out, by one function: half the squared error of
reconstructions that are drawn from the posterior, summed over all pixels, plus the KL. These are
AtomAI's own units, so ours is trained with a Gaussian noise of given unit sd, and on the corners
of the patches too, which it leaves out otherwise. Each side has its own priors: AtomAI's angle
costs by its sd alone, ours by the full turn. Seconds are of the CPU, on one thread: of AtomAI the
training alone, of ours all that `train` does, with its first guess and its looks at patches that
it holds out itself.

By the clock on the wall, on all threads, an epoch of AtomAI is timed, which are all alike, and a
run of ours of each length.

Ours is run at several lengths, since each schedule is a fraction of the run; what counts is the
cheapest run that reaches the loss of AtomAI's last epoch. What is done is written to a file as it
comes, so a benchmark that was stopped goes on.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import atomvae
from atomvae.datasets.cards import cards
from atomvae.datasets.simulate import simulate
from atomvae.latent import Angle, Categorical, Gaussian, Shift
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.seeding import seeded
from atomvae.model.train import train
from atomvae.patches.cut import cut_patches
from tests.model.peer import PEER, ROOT, peer_angles

TRAINED, HELD = 2500, 500
# images and epochs of a run of ours, which is fitted to nine tenths of them
RUNS = (
    (356, 1), (450, 1), (534, 1), (711, 1), (1422, 1),
    (2500, 1), (2500, 2), (2500, 4), (2500, 8), (2500, 17),
)  # fmt: skip
SEEDS = 3
ALL = "all threads"


def held_out_loss(images, drawn, kl):
    """0.5 x squared error over all pixels + KL, mean over images: the loss of either side.

    Parameters
    ----------
    images : (n, h, w), in the units of the data
    drawn : (draws, n, h, w), decoded from samples of the posterior
    kl : (n,) nats

    Examples
    --------
    >>> held_out_loss(np.zeros((3, 2, 2)), np.ones((1, 3, 2, 2)), np.full(3, 5.0))
    7.0
    """
    squares = (np.asarray(drawn, float) - images) ** 2
    return float(0.5 * squares.sum((-1, -2)).mean() + np.mean(kl))


@torch.no_grad()
def draw(model, images):
    """Decode one sample of the posterior of each image: (1, n, h, w), and the KL (n,) in nats."""
    drawn, kls = [], []
    for start in range(0, len(images), 50):
        image = units_of(model, images[start : start + 50])
        rows = torch.arange(len(image))
        with seeded(torch.device("cpu"), start):
            state = model.infer(image, int(model.kept))
            branch = torch.multinomial(state.branches.weight, 1)[:, 0]
            z = {f.name: state.draw(f)[rows, branch] for f in model.latent}
            output = model.reconstruct(z, model.grid.expand(len(image), -1, -1))
        drawn.append(output[..., 0] * float(model.scale) + float(model.offset))
        kls.append(sum(state.kl(f) for f in model.latent))
    return torch.cat(drawn).view(1, *images.shape).numpy(), torch.cat(kls).numpy()


@torch.no_grad()
def mean_bound(model, images):
    """The same from `bound`, averaged over branches, less the constant of the density."""
    with seeded(torch.device("cpu"), 0):
        terms = model.bound(units_of(model, images), keep=int(model.kept))
    constant = len(model.grid) * 0.5 * np.log(2 * np.pi / float(model.scale) ** 2)
    return float(sum(term.mean() for term in terms.values())) - constant


def units_of(model, images):
    """Images (n, h, w) as the model is given them, (n, 1, h, w)."""
    pixels = (images.astype(float) - float(model.offset)) / float(model.scale)
    return torch.from_numpy(pixels.astype(np.float32))[:, None]


def ours(data, classes, images, epochs, seed, guess=True, threads=1):
    """Train ours on the first of the images, one part of the benchmark."""
    torch.set_num_threads(threads)
    fitted, held = data[0][:images], data[1]
    unit = 1 / float(fitted.astype(float).std())  # of the data, in sds of the data
    latent = [Shift(), Angle(), Gaussian(2), *([Categorical(classes)] if classes else [])]
    noise = partial(GaussianNoise, sd=unit)
    start, wall = time.process_time(), time.perf_counter()
    model = zoo.compose(fitted.shape[1:], latent, decoder=zoo.SKIP, likelihood=noise, seed=seed)
    model.count(torch.ones_like(model.field))  # all pixels count, as they do for AtomAI
    config = TrainConfig(epochs=epochs, seed=seed, device="cpu", first_guess=guess)
    history = train(model, fitted, config)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    torch.set_num_threads(1)
    drawn, kl = draw(model, held)
    few = slice(None, None, 5)
    return {
        "loss": held_out_loss(held, drawn, kl),
        "KL": float(kl.mean()),
        "loss of few": held_out_loss(held[few], drawn[:, few], kl[few]),
        "bound of few": mean_bound(model, held[few]),
        "CPU s": seconds,
        "wall s": wall,
        "steps": int(history["step"].iloc[-1]),
    }


def peers(data, classes, epochs, rate, threads=1):
    """Train AtomAI on all of the images, one part of the benchmark."""
    images, held = np.concatenate(data), np.arange(len(data[0]) + len(data[1])) >= len(data[0])
    found = peer_angles(images, epochs, 0, held_out=held, learning_rate=rate,
                        classes=classes, threads=threads)  # fmt: skip
    return {
        "loss": held_out_loss(data[1], found["drawn"], found["kl"]),
        "KL": float(found["kl"].mean()),
        "CPU s": float(found["train_cpu_seconds"].sum()),
        "wall s": float(found["train_wall_seconds"].sum()),
        "CPU s by epoch": found["train_cpu_seconds"].cumsum().tolist(),
        "its test loss by epoch": found["test_loss"].tolist(),
        "AtomAI": str(found["version"]),
    }


def suits(size):
    """Cards to train on, and others to judge by."""
    return (
        cards(120, 20, TRAINED, size=size, noise=0.1, seed=0).images,
        cards(120, 20, HELD, size=size, noise=0.1, seed=1000).images,
    )


def lattice(size=32):
    """Patches around the atoms of simulated graphene with silicon, of two samples, with an sd of 1.

    In units where their sd is far below the noise of 1 that AtomAI takes for granted, the best
    loss would be that of the mean patch.
    """
    out = []
    for seed, n in ((0, TRAINED), (1000, HELD)):
        made = simulate("si_graphene", frames=6, shape=(384, 384), dose=40, seed=seed)
        atoms = made.truth.sort_values("frame", kind="stable", ignore_index=True)
        atoms = atoms.assign(atom_id=np.arange(len(atoms)))
        store = cut_patches(made.movie, atoms, window_nm=0.63, size=size)
        whole = np.flatnonzero(np.asarray(store.mask[:]).all((1, 2)))
        rows = np.sort(np.random.default_rng(seed).permutation(whole)[:n])
        assert len(rows) == n, f"{len(rows)} whole patches, {n} wanted"
        out.append(np.asarray(store.image[:], np.float32)[rows, 0])
    unit = out[0].std()
    return out[0] / unit, out[1] / unit


@dataclass(frozen=True)
class Case:
    """Images, the model, and what AtomAI is given."""

    data: Callable[[], tuple[np.ndarray, np.ndarray]]
    classes: int
    epochs: int
    rates: tuple[float, ...]
    seeds: int = SEEDS
    unguessed: tuple[tuple[int, int], ...] = RUNS[6:]

    def parts(self):
        """Name and function of the data of each part, the two sides in turn."""
        sides = [[] for _ in range(max(self.seeds, len(self.rates)))]
        for seed in range(self.seeds):
            for images, epochs in RUNS:
                name = f"ours, {images} x {epochs}, seed {seed}"
                sides[seed].append((name, partial(ours, images=images, epochs=epochs, seed=seed)))
            for images, epochs in self.unguessed:
                name = f"ours without first guess, {images} x {epochs}, seed {seed}"
                run = partial(ours, images=images, epochs=epochs, seed=seed, guess=False)
                sides[seed].append((name, run))
        for turn, rate in enumerate(self.rates):
            run = partial(peers, epochs=self.epochs, rate=rate)
            sides[turn].append((f"AtomAI, {rate:g}, {self.epochs} epochs", run))
        return {name: part for turn in sides for name, part in turn} | self.walls()

    def walls(self):
        """The parts that are timed by the clock on the wall, on all threads."""
        cores = os.cpu_count() or 1
        parts = {
            f"{ALL}, ours, {images} x {epochs}": partial(
                ours, images=images, epochs=epochs, seed=0, threads=cores
            )
            for images, epochs in RUNS
        }
        parts[f"{ALL}, AtomAI, 1 epoch"] = partial(peers, epochs=1, rate=1e-4, threads=cores)
        return parts


RATES = (1e-4, 1e-3, 3e-4, 3e-3)
CASES = {
    "cards 24, short": Case(partial(suits, 24), 0, 5, (1e-4, 1e-3)),
    "lattice 32, short": Case(lattice, 0, 4, (1e-4,), seeds=1, unguessed=()),
    "cards 48": Case(partial(suits, 48), 0, 20, RATES),
    "lattice 32": Case(lattice, 0, 20, RATES),
    "lattice 24": Case(partial(lattice, 24), 0, 20, RATES),
    "cards 24, 4 classes": Case(partial(suits, 24), 4, 20, RATES),
    "cards 48, 4 classes": Case(partial(suits, 48), 4, 20, RATES[:2]),
}
SHORT = [name for name in CASES if name.endswith("short")]


def machine():
    """Say what the figures were measured with."""
    model = platform.processor() or "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    git = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False, cwd=ROOT)
    return {
        "CPU": model,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "atomvae": atomvae.__version__,
        "commit": done.stdout.strip(),
        "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", "default"),
    }


def run(names, only, file):
    """Run what is missing, of parts named `only...`; gives {case: {part: figures}}."""
    done = json.loads(file.read_text()) if file.exists() else {}
    made = machine()
    for name in names:
        case, results = CASES[name], done.setdefault(name, {})
        parts = {
            key: part
            for key, part in case.parts().items()
            if key not in results and key.startswith(only)
        }
        data = case.data() if parts else None
        for key, part in parts.items():
            try:
                figures = part(data, case.classes)
            except FileNotFoundError as error:  # the peer is not installed
                print(f"{name}: {key}: {error}", flush=True)
                continue
            if file.exists():  # another run may have written meanwhile
                done = json.loads(file.read_text())
            done.setdefault(name, {})[key] = figures | {"made with": made}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(done, indent=1))
            line = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if np.isscalar(v)
                             and not isinstance(v, str))  # fmt: skip
            print(f"{name}: {key}: {line}", flush=True)
    return done


def runs_of(results, side):
    """Median loss and CPU s of each length of run of ours: {(steps, "images x epochs"): (...)}."""
    found = {}
    for key, row in results.items():
        if key.startswith(f"{side}, "):
            found.setdefault((row["steps"], key.split(", ")[1]), []).append(row)
    return {
        length: (
            statistics.median(row["loss"] for row in rows),
            statistics.median(row["CPU s"] for row in rows),
            len(rows),
        )
        for length, rows in sorted(found.items())
    }


def cheapest(runs, loss):
    """Least CPU s of the runs whose median loss is at most this: (CPU s, steps), or None.

    >>> cheapest({(10, "a"): (9.0, 1.0, 3), (20, "b"): (7.0, 2.0, 3)}, loss=8.0)
    (2.0, 20)
    """
    good = [(seconds, steps) for (steps, _), (found, seconds, _) in runs.items() if found <= loss]
    return min(good) if good else None


def ratio(runs, loss, seconds):
    """AtomAI's CPU s over those that ours needs to the same loss, as a cell."""
    best = cheapest(runs, loss)
    return "not reached" if best is None else f"{seconds / best[0]:.1f}"


def peer_row(row, runs, unguessed):
    """Cells of AtomAI's last epoch, and of the epoch at which it stands best against ours."""
    loss, seconds = row["loss"], row["CPU s"]
    cells = [f"{loss:.2f}", f"{seconds:.1f}"]
    for side in (runs, unguessed):
        best = cheapest(side, loss)
        failed = "not reached" if side else "not run yet"
        cells.append(failed if best is None else f"{best[0]:.1f} ({best[1]} steps)")
    cells.append(ratio(runs, loss, seconds))
    epochs = list(zip(row["its test loss by epoch"], row["CPU s by epoch"], strict=True))
    open_ = [at for at in epochs if cheapest(runs, at[0]) is None]
    at = open_[0] if open_ else min(epochs, key=lambda at: at[1] / cheapest(runs, at[0])[0])
    cells.append(f"{ratio(runs, *at)} (epoch {epochs.index(at) + 1})")
    if not runs:
        return [*cells, ""]
    longest = runs[max(runs)]
    return [*cells, f"{longest[0]:.2f} in {longest[1] / seconds:.0%}"]


def wall_lines(results, case):
    """Say how long both take on all threads to the losses of AtomAI."""
    epoch = results.get(f"{ALL}, AtomAI, 1 epoch")
    for rate in case.rates if epoch else ():
        row = results.get(f"AtomAI, {rate:g}, {case.epochs} epochs")
        best = cheapest(runs_of(results, "ours"), row["loss"]) if row else None
        names = [key.split(", ")[1] for key, row in results.items()
                 if key.startswith("ours, ") and best and row["steps"] == best[1]]  # fmt: skip
        if names and (mine := results.get(f"{ALL}, ours, {names[0]}")):
            wall = epoch["wall s"] * case.epochs
            times = f"AtomAI {wall:.1f} s ({case.epochs} epochs), ours {mine['wall s']:.2f} s"
            times_less = wall / mine["wall s"]
            yield f"All threads, by the wall, {rate:g}: {times} ({names[0]}): {times_less:.0f}"


def table(results, case):
    """Lines of two markdown tables: the runs of ours, and AtomAI's beside what ours needs."""
    lines = ["| run | steps | held-out loss | CPU s | seeds |", "|---|---|---|---|---|"]
    both = {side: runs_of(results, side) for side in ("ours", "ours without first guess")}
    for side, runs in both.items():
        for (steps, length), (loss, seconds, n) in runs.items():
            lines.append(f"| {side}, {length} | {steps} | {loss:.2f} | {seconds:.1f} | {n} |")
    lines += [
        "",
        "| AtomAI | held-out loss | CPU s | ours: CPU s to it | without first guess | ratio "
        "| least ratio of its epochs | ours, longest run: loss, share of its time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    missing = "not run yet" if (ROOT / PEER).exists() else "run make peer"
    for rate in case.rates:
        name = f"AtomAI, {rate:g}, {case.epochs} epochs"
        row = results.get(name)
        cells = peer_row(row, *both.values()) if row else [missing, *[""] * 6]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += ["", *wall_lines(results, case)]
    made = {json.dumps(row["made with"]) for row in results.values()}
    return [*lines, "", *(f"made with {each}" for each in sorted(made))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=SHORT, help=f"of {list(CASES)}")
    parser.add_argument("--only", default="", help="parts whose names begin like this")
    parser.add_argument("--file", type=Path, default=Path("build/bench_train.json"))
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"cases {sorted(unknown)} are unknown; choose of {list(CASES)}")
    torch.set_num_threads(1)
    ours((suits(24)[0][:128], suits(24)[1][:50]), 0, 128, 1, 0)  # what is imported late
    done = run(arguments.cases, arguments.only, arguments.file)
    for name in arguments.cases:
        print("\n".join(["", name, "", *table(done[name], CASES[name])]))


if __name__ == "__main__":
    main()
