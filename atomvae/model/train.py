"""Training: one function, one loop."""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atomvae.errors import InputError
from atomvae.latent import Angle
from atomvae.model.checkpoint import Progress, load_tensors, restore, save_tensors, snapshot
from atomvae.model.data import Images, choose_device, measure_scale, normalise, read_images
from atomvae.model.model import Model
from atomvae.model.objective import TermWeight, content_gate, objective
from atomvae.model.seeding import seeded
from atomvae.settings import Settings

log = logging.getLogger(__name__)

STEPS = 600  # of a default run: enough for content and pose of a few thousand patches
CHECK = 100  # steps between looks at whether the loss is finite
SCORED = (32, 256)  # least and most held-out patches scored after each epoch, else n / 40
SAVE_SECONDS = 10.0  # at most so often is the checkpoint written
NOISE_RATE = 4.0  # learning rate of the noise level over that of the networks
Report = Callable[[dict[str, float]], None]


class TrainConfig(Settings):
    """Settings of `train`; None is taken from the number and size of the patches.

    Examples
    --------
    >>> TrainConfig(seed=3).resolve(5000, (1, 32, 32)).epochs
    17
    """

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the patches."""
    batch_size: int | None = Field(default=None, ge=1)
    """Patches per step."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak of the one-cycle schedule."""
    pixels: int | None = Field(default=None, ge=1)
    """Pixels decoded per patch and step, shared by the turned copies and classes."""
    keep_branches: int | None = Field(default=None, ge=1)
    """Turned copies times classes that are still decoded once the pose is found."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the patches, in blocks of frames, on which the model is judged."""
    pose_first: bool | None = None
    """Keep the content shut at first; by default for an untrained model with a free angle."""
    weights: tuple[TermWeight, ...] = ()
    """Terms that don't enter the objective with weight one (beta, capacity)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split, the order of the patches and all draws."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def resolve(self, n: int, shape: tuple[int, ...]) -> "TrainConfig":
        """Fill in what is None, for n patches of a shape (..., height, width)."""
        batch = self.batch_size or min(128, max(8, n // 8))
        steps = math.ceil(n * (1 - self.held_out) / batch)
        side = math.sqrt(shape[-2] * shape[-1])
        return self.model_copy(
            update={
                "batch_size": batch,
                "epochs": self.epochs or max(5, math.ceil(STEPS / max(steps, 1))),
                "learning_rate": self.learning_rate or 5e-3,
                "pixels": self.pixels or max(32, round(6 * side)),
                "keep_branches": self.keep_branches or 3,
            }
        )


def split_rows(
    images: Images, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the rows to train on and the rows to judge by.

    Neighbouring patches overlap, so whole blocks of successive frames are held out; single frames
    and unknown frames are split at random.

    Returns
    -------
    training, held_out
        Sorted rows; held_out is empty for fewer than ten patches or a share of 0.

    Examples
    --------
    >>> images = read_images(np.zeros((40, 4, 4)))
    >>> [len(rows) for rows in split_rows(images, 0.1, seed=0)]
    [36, 4]
    """
    n = len(images)
    rows = np.arange(n)
    if n < 10 or share == 0:
        return rows, rows[:0]
    rng = np.random.default_rng([seed, 1])
    frame = rows[:0] if images.frame is None else images.frame
    frames = np.unique(frame)
    if len(frames) * share < 1:
        held = np.zeros(n, bool)
        held[rng.permutation(n)[: max(1, round(n * share))]] = True
    else:
        blocks = np.array_split(frames, max(2, round(2 / share)))  # two blocks are held out
        blocks = [block for block in blocks if len(block)]
        wanted = max(1, round(len(blocks) * share))
        chosen = rng.permutation(len(blocks))[:wanted]
        held = np.isin(frame, np.concatenate([blocks[i] for i in chosen]))
    return rows[~held], rows[held]


class _Run:
    """A model, its data on the device and the resolved settings of one run."""

    def __init__(self, model: Model, images: Images, config: TrainConfig) -> None:
        self.model, self.images = model, images
        self.config = config = config.resolve(len(images), images.shape)
        assert config.batch_size and config.epochs and config.pixels and config.learning_rate
        self.batch, self.epochs, self.peak = config.batch_size, config.epochs, config.learning_rate
        self.device = choose_device(config.device)
        fresh = not bool(model.trained)
        if fresh:
            offset, scale = measure_scale(images)
            model.offset.copy_(offset), model.scale.copy_(scale)
        has_angle = any(isinstance(f, Angle) for f in model.latent)
        self.gated = config.pose_first if config.pose_first is not None else fresh and has_angle
        model.to(self.device).train()
        self.rows, held = split_rows(images, config.held_out, config.seed)
        judged = held if len(held) else self.rows
        scored = min(len(judged), max(SCORED[0], min(SCORED[1], len(images) // 40)))
        self.judged = judged[np.linspace(0, len(judged) - 1, scored).astype(int)]
        self.steps = math.ceil(len(self.rows) / self.batch)
        self.total = self.epochs * self.steps
        pixels, mask = normalise(images, model.offset, model.scale)
        self.pixels = pixels.to(self.device)
        self.mask = None if mask is None else mask.to(self.device)
        noise = list(model.likelihood.parameters())  # a few numbers that all pixels agree on
        rest = [
            p for part in (model.encoder, model.decoder, model.heads) for p in part.parameters()
        ]
        self.optimizer = torch.optim.Adam(
            [{"params": rest, "rate": 1.0}, {"params": noise, "rate": NOISE_RATE}], lr=self.peak
        )

    def gate(self, fraction: float) -> float:
        """Factor on the content."""
        return content_gate(fraction) if self.gated else 1.0

    def branches(self, fraction: float) -> int:
        """Branches that are decoded: all of them until the content is open."""
        everything = self.model.n_branches
        if self.gated and fraction < 0.5:
            return everything
        return min(everything, self.config.keep_branches or everything)

    def terms(
        self, rows: NDArray[np.int64], fraction: float, keep: int, pixels: int | None
    ) -> dict[str, Tensor]:
        """Terms of the bound of some patches."""
        index = torch.from_numpy(rows).to(self.device)
        mask = None if self.mask is None else self.mask[index]
        return self.model.bound(
            self.pixels[index], mask, pixels=pixels, gate=self.gate(fraction), keep=keep
        )

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows in the order of an epoch."""
        return np.random.default_rng([self.config.seed, 2, epoch]).permutation(self.rows)

    def step(self, state: Progress, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Take one optimizer step; gives the batch means of the terms, on the device."""
        fraction = state.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * group["rate"] * state.rate * one_cycle(fraction)
        k = self.branches(fraction)
        pixels = None
        if getattr(self.model.decoder, "pointwise", False):
            pixels = max(1, round((self.config.pixels or 1) / k))
        with seeded(self.device, self.config.seed, 3, state.step):
            terms = self.terms(rows, fraction, k, pixels)
        loss = objective(terms, self.config.weights, fraction)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1e4)
        self.optimizer.step()
        return {"loss": loss.detach()} | {n: t.detach().mean() for n, t in terms.items()}

    @torch.no_grad()
    def judge(self, fraction: float) -> float:
        """Bound of the held-out patches on all their pixels, nats per patch."""
        total = 0.0
        for start in range(0, len(self.judged), 64):
            rows = self.judged[start : start + 64]
            with seeded(self.device, self.config.seed, 4, start):
                terms = self.terms(rows, fraction, 2, None)
            total -= sum(float(t.sum()) for t in terms.values())
        return total / len(self.judged)

    def recentre(self) -> None:
        """Keep the motif in the middle, judged by patches spread over the training rows."""
        chosen = self.rows[:: max(1, len(self.rows) // SCORED[1])]
        image = self.pixels[torch.from_numpy(chosen).to(self.device)]
        self.model.recentre(image)

    def fingerprint(self) -> dict[str, Any]:
        """Say what must be the same for a checkpoint to be continued."""
        sample = np.ascontiguousarray(self.images.pixels[:: max(1, len(self.images) // 64)])
        return {
            "config": self.config.model_dump(mode="json"),
            "latent": [repr(f) for f in self.model.latent],
            "patches": [*self.images.pixels.shape],
            "sample": hashlib.sha256(sample.tobytes()).hexdigest(),
        }


def one_cycle(fraction: float) -> float:
    """Learning rate over its peak after a fraction of the run: up for a quarter, then down.

    Examples
    --------
    >>> [round(one_cycle(f), 3) for f in (0.0, 0.25, 1.0)]
    [0.04, 1.0, 0.001]
    """
    low, high, x = (0.04, 1.0, fraction / 0.25) if fraction < 0.25 else (1.0, 0.001, 0.0)
    if fraction >= 0.25:
        x = (fraction - 0.25) / 0.75
    return high + (low - high) * (1 + math.cos(math.pi * x)) / 2


def train(
    model: Model,
    patches: Any,
    config: TrainConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: Report | None = None,
) -> pd.DataFrame:
    """Train a model in place; it ends with the weights that did best on held-out patches.

    A model that has been trained before goes on from its weights, with its normalisation and a
    new schedule. With a checkpoint, a run that was stopped at any moment and is called again
    with the same arguments ends with the same weights, bit for bit.

    Parameters
    ----------
    model
        From `zoo`, or composed.
    patches
        A PatchStore, or an array (n, h, w) or (n, c, h, w) of any real number type.
    config
        Settings.
    checkpoint
        File that holds the state of the run, written every few seconds.
    progress
        Called after every step with epoch, step, steps, loss, the terms and patches_per_s.

    Returns
    -------
    DataFrame
        A row per epoch: epoch, step, learning_rate, gate, loss, every term (nats per patch),
        noise (sd of the first channel, in data units) and held_out (bound of held-out patches on
        all pixels, nats per patch; larger is better).

    Raises
    ------
    InputError
        If patches and model don't fit, pixels are NaN, or the checkpoint is of another run.
    RuntimeError
        If the loss was not finite six times, each with a lower learning rate.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> images = np.random.default_rng(0).normal(size=(20, 8, 8))
    >>> history = train(zoo.vae((8, 8)), images, TrainConfig(epochs=2))
    >>> list(history["epoch"])
    [1, 2]
    """
    images = read_images(patches)
    if images.shape != model.shape:
        raise InputError(
            f"patches have shape {images.shape} (channels, height, width), the model expects "
            f"{model.shape}; cut them alike or make a model of their shape"
        )
    config = config or TrainConfig()
    unknown = {w.term for w in config.weights} - {"nll", *(f.name for f in model.latent)}
    if unknown:
        raise InputError(
            f"weights name {sorted(unknown)}, the model has the terms "
            f"{['nll', *(f.name for f in model.latent)]}"
        )
    path = Path(checkpoint) if checkpoint is not None else None
    run = _Run(model, images, config)
    log.info("training with %s", run.config)
    state, best = _resume(run, path)
    _loop(run, state, best, path, progress)
    model.load_state_dict(best)
    model.trained.fill_(True)
    model.eval()
    return pd.DataFrame(state.history)


def _resume(run: _Run, path: Path | None) -> tuple[Progress, dict[str, Tensor]]:
    """State and best weights of the checkpoint, if there is one, else of a new run."""
    if path is None or not path.exists():
        return Progress(), {}
    tensors, metadata = load_tensors(path)
    if metadata.get("run") != run.fingerprint():
        raise InputError(
            f"{path} is the checkpoint of a run with other settings, factors or patches; delete "
            "it to start anew or choose another file"
        )
    restore(tensors, run.model, run.optimizer)
    best = {name[5:]: t for name, t in tensors.items() if name.startswith("best.")}
    return Progress(**metadata["state"]), best


def _loop(
    run: _Run,
    state: Progress,
    best: dict[str, Tensor],
    path: Path | None,
    progress: Report | None,
) -> None:
    """Step until the end; `state` and `best` are updated in place."""
    good, good_state = snapshot(run.model, run.optimizer), asdict(state)
    sums: dict[str, Tensor] = {}  # on the device since the last check
    began, first, saved = time.monotonic(), state.step, time.monotonic()
    order, shuffled = run.rows, -1
    if path is not None and not path.exists():
        _save(run, path, good, good_state, best)  # a run stopped in its first epoch starts anew
    while state.step < run.total:
        epoch, k = divmod(state.step, run.steps)
        if shuffled != epoch:
            order, shuffled = run.order(epoch), epoch
        rows = order[k * run.batch : (k + 1) * run.batch]
        terms = run.step(state, rows)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(rows)
        state.step += 1
        if progress is not None:
            speed = (state.step - first) * run.batch / max(time.monotonic() - began, 1e-9)
            values = {name: float(value) for name, value in terms.items()}
            position = {"epoch": epoch + 1, "step": state.step, "steps": run.total}
            progress({**position, **values, "patches_per_s": speed})
        ends = state.step % run.steps == 0
        if not ends and state.step % CHECK:
            continue
        if not math.isfinite(sum(float(v) for v in sums.values())):
            _retreat(run, state, good, good_state)
            sums = {}
            continue
        for name, value in sums.items():
            state.sums[name] = state.sums.get(name, 0.0) + float(value)
        sums = {}
        if ends:
            _close_epoch(run, state, best)
        good, good_state = snapshot(run.model, run.optimizer), asdict(state)
        due = time.monotonic() - saved > SAVE_SECONDS or state.step == run.total
        if path is not None and due:
            _save(run, path, good, good_state, best)
            saved = time.monotonic()


def _save(
    run: _Run,
    path: Path,
    good: dict[str, Tensor],
    good_state: dict[str, Any],
    best: dict[str, Tensor],
) -> None:
    """Write the checkpoint."""
    tensors = good | {f"best.{name}": t for name, t in best.items()}
    save_tensors(tensors, path, {"state": good_state, "run": run.fingerprint()})


def _close_epoch(run: _Run, state: Progress, best: dict[str, Tensor]) -> None:
    """Judge the model, keep it if it is the best, and add a row to the history."""
    fraction = state.step / run.total
    run.recentre()
    score = run.judge(fraction)
    if run.gate(fraction) == 1.0 and (score > state.best or not best):
        state.best = score
        best.update({n: t.detach().cpu().clone() for n, t in run.model.state_dict().items()})
    noise = float((run.model.likelihood.sd[0] * run.model.scale[0]).detach())
    row = {
        "epoch": state.step // run.steps,
        "step": state.step,
        "learning_rate": run.peak * state.rate * one_cycle((state.step - 1) / run.total),
        "gate": run.gate(fraction),
        **{name: value / len(run.rows) for name, value in state.sums.items()},
        "noise": noise,
        "held_out": score,
    }
    state.history.append(row)
    state.sums = {}


def _retreat(
    run: _Run, state: Progress, good: dict[str, Tensor], good_state: dict[str, Any]
) -> None:
    """Go back to the last good state with a third of the learning rate."""
    retreats, rate = state.retreats + 1, state.rate / 3
    if retreats > 5:
        raise RuntimeError(
            f"the loss was not finite {retreats} times, last at step {state.step} with a learning "
            f"rate of {run.peak * state.rate:.2g}; look for outliers in the patches"
        )
    log.warning(
        "the loss is not finite at step %d: back to step %d with a third of the learning rate",
        state.step,
        good_state["step"],
    )
    restore(good, run.model, run.optimizer)
    vars(state).update(asdict(Progress(**good_state)), retreats=retreats, rate=rate)
    good_state.update(retreats=retreats, rate=rate)
