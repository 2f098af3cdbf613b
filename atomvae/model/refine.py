"""Posteriors of single patches improved by gradient steps: what the encoder left undone.

The encoder gives the posterior of any patch at once, but not the best one: the difference in the
bound is the amortisation gap (Cremer et al., ICML 2018). A few steps on the numbers of the patch
itself, the networks unchanged, close it (semi-amortised inference; Kim et al., ICML 2018).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from atomvae.errors import InputError
from atomvae.latent import Branches, Categorical
from atomvae.latent.circle import wrap
from atomvae.model.model import Model
from atomvae.model.posterior import Known, Posterior, posterior
from atomvae.model.seeding import seeded

RATE = 0.15  # first learning rate, in units of the encoder's numbers: prior sds, or log sds
BETAS = (0.6, 0.9)  # of Adam: a run has a few dozen steps
HOPELESS = 50.0  # nats below the best: a branch that is not refined
PAIRS = 2  # of draws by which patches are judged before and after
POINTS = {"cpu": 2**17, "cuda": 2**20}  # decoded at once: bounds the memory
SHUT = -60.0  # log probability of a branch that is given up
LEFT_OUT = 1e-6  # probability of a branch that isn't worth decoding

Params = dict[str, Tensor]


class PairedNoise(TorchFunctionMode):
    """Draws the same random numbers for every patch and branch, in mirrored pairs.

    Inside the block normal and uniform noise of shape (N, K, ...) is the same for all N and K, so
    a patch meets the same numbers whatever batch it is in. `mirror` makes the draws that follow
    repeat those before it with the opposite sign: what is odd in the noise cancels. Generators of
    other variables (gamma) are left as they are.

    Parameters
    ----------
    seed
        Of the numbers.
    corners
        Draw normal noise from the corners of the cube, +1 or -1 in each coordinate: right on
        average up to third degree, and without scatter in the squares, which teach the sds.

    Examples
    --------
    >>> with PairedNoise(0) as noise:
    ...     a = torch.randn(2, 3, 1)
    ...     noise.mirror()
    ...     b = torch.randn(4, 1, 1)
    >>> bool((a == a[0, 0]).all()), bool((b == -a[0, 0]).all())
    (True, True)
    """

    NORMAL = (torch.randn, torch.randn_like, torch.Tensor.normal_)
    UNIFORM = (torch.rand, torch.rand_like, torch.Tensor.uniform_)

    def __init__(self, seed: int, corners: bool = False) -> None:
        super().__init__()
        self.seed, self.corners = seed, corners
        self.generator: torch.Generator | None = None
        self.drawn: list[Tensor] = []
        self.again: Iterator[Tensor] = iter(())

    def mirror(self) -> None:
        """Repeat the draws so far with the opposite sign."""
        self.again = iter([*self.drawn])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace what is drawn."""
        out = func(*args, **(kwargs or {}))
        if func not in self.NORMAL + self.UNIFORM:
            return out
        first = next(self.again, None)
        if first is not None:
            first = -first if func in self.NORMAL else 1 - first
        else:
            if self.generator is None:
                self.generator = torch.Generator(out.device).manual_seed(self.seed)
            first = torch.empty(out.shape[2:], dtype=out.dtype, device=out.device)
            draw = first.normal_ if func in self.NORMAL else first.uniform_
            draw(generator=self.generator)
            if self.corners and func in self.NORMAL:
                first.sign_()
            self.drawn.append(first)
        return out.copy_(first.expand_as(out))


@dataclass(frozen=True)
class Seen:
    """What some patches show.

    Parameters
    ----------
    coords
        (P, 2) of the pixels that may count.
    values
        (B, P, c) in the units of the likelihood.
    weight
        (B, P) one for pixels that count, else zero.
    known
        Observed values by name, (B, size), NaN where unknown.
    """

    coords: Tensor
    values: Tensor
    weight: Tensor
    known: Known

    def take(self, rows: Tensor) -> "Seen":
        """Take patches (N,), some of them perhaps several times."""
        known = {name: value[rows] for name, value in self.known.items()}
        return Seen(self.coords, self.values[rows], self.weight[rows], known)

    def fit(self, model: Model, z: Params) -> Tensor:
        """Log probability of each patch, (N,) nats, for values (N, size) by factor."""
        output = model.reconstruct(z, self.coords.expand(len(self.values), -1, -1))
        return (model.likelihood.log_prob(self.values, output) * self.weight).sum(1)


def refine(
    model: Model,
    params: Params,
    target: Tensor,
    mask: Tensor | None = None,
    known: Known | None = None,
    *,
    steps: int = 10,
) -> Params:
    """Take gradient steps on the posterior's numbers of each patch, the networks unchanged.

    The objective is the evidence lower bound on all pixels, whatever weights its terms had in
    training. The most promising branches (turned copies and classes), as many as were kept in
    training, are refined each by itself with Adam; their probabilities then follow from their
    bounds, which for classes is Bayes' rule. A patch whose bound did not rise keeps its numbers.

    Every patch meets the same noise, so the result depends on the patch alone. The bound before
    and after is judged by the same draws, others than those of the steps.

    Parameters
    ----------
    model
        Any model; nothing in it is changed.
    params
        Of `Model.parameters_of`, (B, K, n_params) by factor.
    target
        (B, c, h, w) of what is decoded, in the units of the likelihood.
    mask
        (B, h, w) bool, True for the pixels that count; None for all.
    known
        Observed values of factors by name, (B, size), NaN where they are not known.
    steps
        Gradient steps; 10 close nearly all of the gap that a usual training leaves. Each costs
        about as much as three steps of training on the same patches, the judging as ten of them.

    Returns
    -------
    dict
        Numbers of the same shapes, to be passed to `Model.posterior_of`.

    Raises
    ------
    InputError
        If steps is negative.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> model, image = zoo.rvae((8, 8)), torch.rand(2, 1, 8, 8)
    >>> params = refine(model, model.parameters_of(image), image, steps=3)
    >>> params["angle"].shape
    torch.Size([2, 8, 3])
    """
    if steps < 0:
        raise InputError(f"refine is {steps}, expected a number of gradient steps, 0 for none")
    params = {name: p.detach() for name, p in params.items()}
    valid = model.field.expand(len(target), -1)
    valid = valid if mask is None else valid & mask.flatten(1)
    pixels = target.flatten(2).transpose(1, 2)  # (B, D, c)
    inside = model.field
    seen = Seen(model.grid[inside], pixels[:, inside], valid[:, inside].to(pixels), known or {})
    size = max(1, POINTS[target.device.type] // (len(seen.coords) * model.n_branches))
    if steps == 0:
        return params
    parts = []
    for rows in torch.split(torch.arange(len(target), device=target.device), size):
        with seeded(target.device, 0, 11):
            some = {name: p[rows] for name, p in params.items()}
            parts.append(_refine(model, some, seen.take(rows), steps))
    return {name: torch.cat([part[name] for part in parts]) for name in params}


def _refine(model: Model, params: Params, seen: Seen, steps: int) -> Params:
    """Refine the numbers of some patches, and keep what is better."""
    b, k = len(seen.values), model.n_branches
    with torch.no_grad():
        before = _judge(model, params, seen)
        everything = torch.ones(b, k, dtype=torch.bool, device=seen.values.device)
        promise = _Alone(model, params, everything, seen).promise().view(b, k)
    best = promise.topk(int(model.kept), 1)
    chosen = torch.zeros_like(everything)
    chosen.scatter_(1, best.indices, best.values > best.values[:, :1] - HOPELESS)
    alone = _Alone(model, params, chosen, seen)
    alone.descend(steps)
    with torch.no_grad():
        refined = alone.join(params)
        better = _judge(model, refined, seen) > before
    return {n: torch.where(better[:, None, None], refined[n], params[n]) for n in params}


def _total_kl(model: Model, state: Posterior) -> Tensor:
    """Add the KLs of all factors, (B,) nats."""
    return torch.stack([state.kl(f) for f in model.latent if not f.is_given]).sum(0)


def _bound(
    model: Model, state: Posterior, seen: Seen, pairs: Sequence[int], corners: bool = False
) -> Tensor:
    """Estimate the bound, (B,) nats, by mirrored pairs of draws."""
    weight = state.branches.weight
    counts = weight > LEFT_OUT  # N branches of all patches are decoded
    patch = counts.nonzero()[:, 0]
    shown = seen.take(patch)
    total = torch.zeros_like(state.surprise)
    for pair in pairs:
        with PairedNoise(pair, corners) as noise:
            for _ in range(2):
                z = {f.name: state.draw(f)[counts] for f in model.latent}
                fit = weight[counts] * shown.fit(model, z)
                total = total.index_add(0, patch, fit) - _total_kl(model, state)
                noise.mirror()
    return total / (2 * len(pairs))


def _judge(model: Model, params: Params, seen: Seen) -> Tensor:
    """Estimate the bound of patches, (B,) nats."""
    state = model.posterior_of(params, int(model.kept), seen.known)
    return _bound(model, state, seen, range(PAIRS))


class _Alone:
    """Branches of patches, each as if there were no other: N posteriors of one branch.

    Parameters
    ----------
    model
        Whose posteriors they are.
    params
        (B, K, n_params) by factor, of all branches.
    chosen
        (B, K) bool, which are taken: N of them.
    seen
        The B patches.
    """

    def __init__(self, model: Model, params: Params, chosen: Tensor, seen: Seen) -> None:
        self.model, self.chosen = model, chosen
        patch, branch = chosen.nonzero(as_tuple=True)
        self.params = {name: p[chosen][:, None] for name, p in params.items()}  # (N, 1, n_params)
        self.seen = seen.take(patch)
        turn, label = (v[branch][:, None] for v in (model.turns, model.labels))
        self.frame = Branches(torch.zeros_like(turn), turn, label, model.strides)

    @property
    def state(self) -> Posterior:
        """The N posteriors."""
        return posterior(self.model.latent, self.params, self.frame, self.seen.known)

    def promise(self) -> Tensor:
        """Say how well each branch explains the patch at its mean, (N,) nats."""
        state = self.state
        fit = self.seen.fit(self.model, {f.name: state.point(f)[:, 0] for f in self.model.latent})
        return fit - _total_kl(self.model, state) + self.log_q(classes=True)

    def log_q(self, classes: bool) -> Tensor:
        """Log probability of the known classes, or else of the other known values: (N,)."""
        state = self.state
        total = torch.zeros_like(state.surprise)
        for f in self.model.latent:
            enumerated = isinstance(f, Categorical) and f.chooses
            if f.name in self.seen.known and not f.is_given and enumerated == classes:
                value = self.seen.known[f.name]
                log_q = f.log_q(state.q[f.name], value.nan_to_num(), state.branches)[:, 0]
                total = total + log_q.masked_fill(value.isnan().any(1), 0.0)
        return total

    @torch.enable_grad()
    def descend(self, steps: int) -> None:
        """Take gradient steps on the numbers, each with noise of its own."""
        self.params = {name: p.clone().requires_grad_() for name, p in self.params.items()}
        leaves = [*self.params.values()]
        optimizer = torch.optim.Adam(leaves, lr=RATE, betas=BETAS)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            bound = _bound(self.model, self.state, self.seen, [PAIRS + step], corners=True)
            (-bound.sum()).backward(inputs=leaves)  # type: ignore[no-untyped-call]
            optimizer.step()
        self.params = {name: p.detach() for name, p in self.params.items()}

    def join(self, params: Params) -> Params:
        """Put the branches back among all, (B, K, n_params), with the probabilities due to them."""
        joined = {name: p.clone() for name, p in params.items()}
        for name, p in self.params.items():
            joined[name][self.chosen] = p[:, 0]
        choosers = [f.name for f in self.model.latent if f.chooses]
        if choosers:
            bound = _bound(self.model, self.state, self.seen, range(PAIRS))
            logit = self._spread(bound - self.log_q(classes=False))  # the posterior adds it again
            logit = logit.masked_fill(self._twins(self._spread(bound)), -torch.inf)
            for name in choosers:
                joined[name][..., 0] = 0.0
            logit = (logit - logit.amax(1, keepdim=True)).clamp_min(SHUT)
            joined[choosers[0]][..., 0] = logit
        return joined

    def _spread(self, values: Tensor) -> Tensor:
        """Bring (N,) to (B, K), minus infinity elsewhere."""
        out = torch.full(self.chosen.shape, -torch.inf, dtype=values.dtype, device=values.device)
        out[self.chosen] = values
        return out

    def _twins(self, height: Tensor) -> Tensor:
        """Whether a branch has come to the angle of a better one of its class, (B, K)."""
        if self.model.angle is None:
            return torch.zeros_like(self.chosen)
        q = self.state.q[self.model.angle.name]
        angle, sd = (self._spread(v[:, 0, 0]) for v in (q.mean, q.stddev))
        label = self.model.labels
        near = wrap(angle[:, :, None] - angle[:, None]).abs() < sd[:, :, None] + sd[:, None]
        return (near & (label[:, None] == label) & (height[:, None] > height[:, :, None])).any(2)
