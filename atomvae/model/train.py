"""Training: one function, one loop."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from atomvae.errors import InputError
from atomvae.model.batches import Batches, read_targets
from atomvae.model.checkpoint import Progress, load_tensors, restore, save_tensors, snapshot
from atomvae.model.config import BATCH, STEPS, TermWeight, TrainConfig
from atomvae.model.data import choose_device, read_images, split_rows
from atomvae.model.guess import ROWS, first_guess
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.model import Model
from atomvae.model.objective import check_weights, content_gate, objective, one_cycle
from atomvae.model.precision import products
from atomvae.model.processes import (
    add_gradients,
    device_of,
    processes,
    rank_and_number,
    share_means,
)
from atomvae.model.seeding import seeded

log = logging.getLogger(__name__)

CHECK = 100  # steps between looks at whether the loss is finite
WATCHED = 20  # steps between reports from a GPU, which would wait for each
SCORED = (32, 256)  # least and most held-out patches scored after each epoch, else n / 40
SAVE_SECONDS = 10.0  # at most so often is the checkpoint written
GUESSED = 0.5  # fraction of a run for which guessed angles are taken for known
SORTED = 0.75  # and guessed classes: angles settle in each before any patch may change its class
SEARCHED = 0.5  # fraction after which the content is open, when angles could not be guessed
OPENED = 0.3  # the same, when angles, classes or conditions are known or guessed
SURPRISE = 0.1  # weight of the surprise per pixel: heard beside the nll, which is a sum over pixels
FEW_RATE = 4.0  # learning rate over that of the networks for the few numbers all patches agree on
Report = Callable[[dict[str, float]], None]


class _Run:
    """A model, its data on the device and the resolved settings of one run."""

    def __init__(self, model: Model, batches: Batches, config: TrainConfig) -> None:
        self.model, self.batches = model, batches
        images = batches.images
        self.config = config = config.resolve(len(images), images.shape)
        assert config.batch_size and config.epochs and config.pixels and config.learning_rate
        self.batch, self.epochs, self.peak = config.batch_size, config.epochs, config.learning_rate
        self.device = batches.device
        fresh = not bool(model.trained)
        if fresh and config.first_guess:
            guess = first_guess(model, batches, config.seed, self.compared())
            batches.guess = {name: value.to(self.device) for name, value in guess.items()}
        self.searches = fresh and model.angle is not None and not batches.guess
        self.opened = 0.0
        if self.searches:
            self.opened = SEARCHED
        elif fresh and (batches.guess or model.given):
            self.opened = OPENED
        model.kept.fill_(min(model.n_branches, config.keep_branches or model.n_branches))
        model.to(self.device).train()
        self.rows, held = split_rows(images, config.held_out, config.seed)
        self.holds_out = len(held) > 0
        judged = held if self.holds_out else self.rows
        scored = min(len(judged), max(SCORED[0], min(SCORED[1], len(images) // 40)))
        self.judged = judged[np.linspace(0, len(judged) - 1, scored).astype(int)]
        surprise = max(10.0, SURPRISE * math.prod(model.target_shape))
        self.weights = (TermWeight(term="surprise", weight=surprise), *config.weights)
        self.guessed = np.intersect1d(self.rows, batches.guessed())
        self.spread = self.rows[:: max(1, len(self.rows) // SCORED[1])]
        batches.keep(self.judged, self.spread, self.guessed)
        self.steps = math.ceil(len(self.rows) / self.batch)
        self.total = self.epochs * self.steps
        for name in set(batches.known) & set(model.priors):  # observed: its units are the user's
            model.priors[name].requires_grad_(False)
        few = [*model.likelihood.parameters(), *model.priors.parameters()]
        parts = (model.encoder, model.decoder, model.heads, model.tell)
        rest = [p for part in parts if part is not None for p in part.parameters()]
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.rank, self.number = rank_and_number()
        self.parts = max(config.parts, self.number)
        self.optimizer = torch.optim.Adam(
            [{"params": rest, "rate": 1.0}, {"params": few, "rate": FEW_RATE}],
            lr=self.peak,
            fused=True,
        )

    def compared(self) -> int:
        """Patches that the first guess compares: its time is a share of that of the run."""
        seen = self.epochs * len(self.batches.images)
        return round(min(ROWS, max(ROWS / 4, ROWS * math.sqrt(seen / (STEPS * BATCH)))))

    def held(self, fraction: float) -> list[str]:
        """Factors whose guess is taken for known."""
        angle = self.model.angle.name if self.model.angle else None
        until = {name: GUESSED if name == angle else SORTED for name in self.batches.guess}
        return [name for name, end in until.items() if fraction < end and len(self.guessed)]

    def is_idle(self, state: Progress) -> bool:
        """Whether held-out patches have not been met better for as long as patience lasts."""
        assert self.config.patience
        idle = state.step - state.best_step >= self.config.patience * self.steps
        return idle and self.holds_out and state.best_step > 0

    def gate(self, fraction: float) -> float:
        """Factor on the continuous content."""
        return content_gate(fraction, self.opened)

    def branches(self, fraction: float) -> int:
        """Branches that are decoded: all of them while the pose is searched without a guess."""
        everything = self.model.n_branches
        if self.searches and fraction < self.opened:
            return everything
        keep = self.config.keep_branches or everything
        if held := self.held(fraction):
            keep = 1 if len(held) == len(self.batches.guess) else keep  # the guess says which
        return min(everything, keep)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows in the order of an epoch."""
        return self.batches.order(self.rows, self.config.seed, epoch)

    def step(self, state: Progress, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Take one optimizer step; gives the batch means of the terms, on the device."""
        fraction = state.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * group["rate"] * state.rate * one_cycle(fraction)
        k = self.branches(fraction)
        pixels = None
        if getattr(self.model.decoder, "pointwise", False):
            share = max(k, min(self.config.keep_branches or 1, self.model.n_branches))
            pixels = max(1, round((self.config.pixels or 1) / share))
        rng = np.random.default_rng([self.config.seed, 5, state.step])
        guess = self.held(fraction)
        if guess:
            rows = rng.choice(self.guessed, len(rows))
        rows = self.batches.with_labelled(rows, self.rows, rng)
        sums: dict[str, Tensor] = {}  # over the parts of the batch that this process does
        for part in range(self.rank, self.parts, self.number):
            mine = np.array_split(rows, self.parts)[part]
            counts = float(len(mine) > 0)  # one that has nothing to do answers all the same
            batch = self.batches.take(mine if counts else rows[:1], guess=guess)
            key = (self.config.seed, 3, state.step, part)[: 4 if part else 3]
            with seeded(self.device, *key):
                terms = self.model.bound(**batch, pixels=pixels, gate=self.gate(fraction), keep=k)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term[0])) + counts * term.sum()
        if self.batches.guess:  # nothing surprises once the guess is forgotten
            sums.setdefault("surprise", torch.zeros_like(sums["nll"]))
        means = share_means({name: total / len(rows) for name, total in sums.items()})
        loss = objective(means, self.weights, fraction)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        add_gradients(self.trainable)
        torch.nn.utils.clip_grad_norm_(self.trainable, 1e4)
        self.optimizer.step()
        return {"loss": loss.detach()} | {n: t.detach() for n, t in means.items()}

    @torch.no_grad()
    def judge(self, fraction: float) -> tuple[float, float]:
        """Bound of the held-out patches on all their pixels, and minus what is minimised.

        The second has the weights of the end of the run, so capacities are those that are aimed
        at; both in nats per patch, larger is better.
        """
        sums: dict[str, Tensor] = {}
        given = {f.name for f in self.model.given}
        for start in range(0, len(self.judged), 64):
            batch = self.batches.take(self.judged[start : start + 64])
            batch["known"] = {n: v for n, v in batch["known"].items() if n in given}
            with seeded(self.device, self.config.seed, 4, start):
                terms = self.model.bound(**batch, gate=self.gate(fraction), keep=2)
            for name, term in terms.items():
                if name != "surprise":
                    sums[name] = sums.get(name, torch.zeros_like(term[0])) + term.sum()
        means = {name: total / len(self.judged) for name, total in sums.items()}
        return -float(sum(means.values())), -float(objective(means, self.config.weights, 1.0))

    def recentre(self) -> None:
        """Keep the motif in the middle, judged by patches spread over the training rows."""
        batch = self.batches.take(self.spread)
        self.model.recentre(batch["image"], batch["known"])

    def fingerprint(self) -> dict[str, Any]:
        """Say what must be the same for a checkpoint to be continued."""
        config = self.config.model_dump(mode="json", exclude={"device", "processes"})
        return {
            "config": config | {"parts": self.parts},
            "latent": [repr(f) for f in self.model.latent],
            "patches": [len(self.batches.images), *self.batches.images.shape],
            "sample": self.batches.digest,
        }


def train(
    model: Model,
    patches: Any,
    config: TrainConfig | None = None,
    *,
    targets: Any = None,
    known: Mapping[str, ArrayLike] | None = None,
    checkpoint: str | Path | None = None,
    progress: Report | None = None,
) -> pd.DataFrame:
    """Train a model in place; it ends with the weights that did best on held-out patches.

    Best is by the objective, weights and capacities included. The run ends early when nothing
    better has been met for `patience` epochs. With no patches held out it ends with the last
    weights.

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
    targets
        What is to be decoded from the patches, where that is not the patches themselves: a
        PatchStore, an array (n, h, w) or (n, c, h, w), or spectra (n, length).
    known
        Values of factors by name, for some patches or all: classes as whole numbers, -1 where
        unknown; numbers, NaN where unknown; angles in radians, shifts in pixels. Conditions need
        a value for every patch. This is what makes a training semi-supervised.
    checkpoint
        File that holds the state of the run, written every few seconds.
    progress
        Called after every step (on a GPU every 20) with epoch, step, steps, loss, the terms,
        patches_per_s and, once an epoch has ended, its held_out.

    Returns
    -------
    DataFrame
        A row per epoch: epoch, step, learning_rate, guessed (1 if a first guess was taken for
        known when the epoch began, else 0), gate (factor on the continuous content), loss, every
        term (nats per patch), noise (sd of the first channel, in data units) and held_out (bound
        of held-out patches on all pixels, nats per patch; larger is better).

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
    config = config or TrainConfig()
    check_weights(model, config)
    others = partial(train, targets=targets, known=known, checkpoint=checkpoint)
    with (
        processes(config.processes, others, (model, patches, config)),
        products(config.matmul_precision),
    ):
        return _train(model, patches, config, targets, known, checkpoint, progress)


def _train(
    model: Model,
    patches: Any,
    config: TrainConfig,
    targets: Any,
    known: Mapping[str, ArrayLike] | None,
    checkpoint: str | Path | None,
    progress: Report | None,
) -> pd.DataFrame:
    """Train in this process, one of a group or alone."""
    device = device_of(choose_device(config.device))
    room = config.memory_gb
    images, shown = read_images(patches, room), read_targets(targets, room)
    fresh = not bool(model.trained)
    batches = Batches(model, images, shown, known, device, measure=fresh, memory_gb=room)
    path = Path(checkpoint) if checkpoint is not None else None
    run = _Run(model, batches, config)
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
    good, good_state = snapshot(run.model, run.optimizer), state.entries()
    sums: dict[str, Tensor] = {}  # on the device since the last check
    began, first, saved = time.monotonic(), state.step, time.monotonic()
    order, shuffled = run.rows, -1
    if path is not None and not path.exists():
        _save(run, path, good, good_state, best)  # a run stopped in its first epoch starts anew
    while state.step < run.total and not run.is_idle(state):
        epoch, k = divmod(state.step, run.steps)
        if shuffled != epoch:
            order, shuffled = run.order(epoch), epoch
        rows = order[k * run.batch : (k + 1) * run.batch]
        terms = run.step(state, rows)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(rows)
        state.step += 1
        if progress is not None and (run.device.type == "cpu" or state.step % WATCHED == 0):
            speed = (state.step - first) * run.batch / max(time.monotonic() - began, 1e-9)
            values = {name: float(value) for name, value in terms.items()}
            position = {"epoch": epoch + 1, "step": state.step, "steps": run.total}
            judged = {"held_out": state.history[-1]["held_out"]} if state.history else {}
            progress({**position, **values, **judged, "patches_per_s": speed})
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
        good, good_state = snapshot(run.model, run.optimizer), state.entries()
        due = time.monotonic() - saved > SAVE_SECONDS or state.step == run.total
        due = due or run.is_idle(state)
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
    if run.rank:
        return
    tensors = good | {f"best.{name}": t for name, t in best.items()}
    save_tensors(tensors, path, {"state": good_state, "run": run.fingerprint()})


def _close_epoch(run: _Run, state: Progress, best: dict[str, Tensor]) -> None:
    """Judge the model, keep it if it is the best, and add a row to the history."""
    fraction = state.step / run.total
    run.recentre()
    bound, score = run.judge(fraction)
    # Patches that were trained on say nothing against going on: then the last weights count.
    better = score > state.best or not best or not run.holds_out
    if run.gate(fraction) == 1.0 and better:
        state.best, state.best_step = score, state.step
        best.update({n: t.detach().cpu().clone() for n, t in run.model.state_dict().items()})
    likelihood, noise = run.model.likelihood, math.nan
    if isinstance(likelihood, GaussianNoise):
        noise = float((likelihood.level[0].cpu() * run.model.target_scale[0].cpu()).detach())
    row = {
        "epoch": state.step // run.steps,
        "step": state.step,
        "learning_rate": run.peak * state.rate * one_cycle((state.step - 1) / run.total),
        "guessed": float(len(run.held((state.step - run.steps) / run.total)) > 0),
        "gate": run.gate(fraction),
        **{name: value / len(run.rows) for name, value in state.sums.items()},
        "noise": noise,
        "held_out": bound,
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
    vars(state).update(Progress(**good_state).entries(), retreats=retreats, rate=rate)
    good_state.update(retreats=retreats, rate=rate)
