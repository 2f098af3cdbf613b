"""One model for the whole family: a product of latent factors, an encoder, a decoder, a noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atomvae.errors import InputError
from atomvae.latent import Angle, Branches, Categorical, Condition, Factor, Gaussian, Pose, Shift
from atomvae.latent.pose import to_motif, turn_matrix
from atomvae.model.likelihood import Likelihood
from atomvae.model.networks import Shape, pixel_grid, sample_image
from atomvae.model.posterior import Known, Posterior, pick, posterior


class Model(nn.Module):
    """A variational autoencoder over a product of named factors.

    Four laws: encoder outputs concatenate (one linear head per factor); content concatenates;
    poses multiply; KLs add. A variant is a choice of factors and networks, see `zoo`.

    Parameters
    ----------
    latent
        Factors with different names; at most one `Angle`.
    encoder
        Maps (N, c, h, w) to (N, width).
    decoder
        Maps content (N, d) and coordinates (N, P, 2) to (N, P, c). Its shape may differ from the
        encoder's (an encoder-decoder: image to spectrum, one channel to three, ...).
    likelihood
        Noise model of what is decoded.

    Raises
    ------
    InputError
        If the parts don't fit each other.

    Notes
    -----
    Turned copies (`Angle`) and classes (`Categorical`) are branches: each is decoded on the same
    pixels, and the bound is the average over their probabilities, exact.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> model = zoo.rvae((8, 8))
    >>> sorted(model.bound(torch.zeros(5, 1, 8, 8)))
    ['angle', 'nll', 'shift', 'z']
    """

    offset: Tensor
    scale: Tensor
    target_offset: Tensor
    target_scale: Tensor
    grid: Tensor
    field: Tensor
    inside: Tensor
    turns: Tensor
    labels: Tensor
    copy_grid: Tensor
    copy_field: Tensor
    centre: Tensor
    trained: Tensor
    kept: Tensor

    def __init__(
        self,
        latent: Sequence[Factor],
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.latent = tuple(latent)
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.content = [f for f in self.latent if not f.is_pose]
        self.poses = [f for f in self.latent if isinstance(f, Pose)]
        self.given = [f for f in self.latent if isinstance(f, Condition)]
        self._check()
        self.angle = next((f for f in self.latent if isinstance(f, Angle)), None)
        kinds = [f for f in self.latent if isinstance(f, Categorical) and f.chooses]
        self.classes = math.prod(f.size for f in kinds)
        self.strides = {
            f.name: math.prod(g.size for g in kinds[i + 1 :]) for i, f in enumerate(kinds)
        }
        self._register_grids(torch.tensor(self.angle.turns if self.angle else [0.0]))
        for name, channels in (("", self.shape[0]), ("target_", self.target_shape[0])):
            self.register_buffer(f"{name}offset", torch.zeros(channels, dtype=torch.float64))
            self.register_buffer(f"{name}scale", torch.ones(channels, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(self.classes, 2))  # of the motif, half sides
        self.register_buffer("trained", torch.tensor(False))
        self.register_buffer("kept", torch.tensor(self.copies * self.classes))  # in training
        for f in self.latent:  # offset and scale of numbers that may be observed
            if isinstance(f, Gaussian) or (isinstance(f, Condition) and not f.discrete):
                plain = torch.stack([torch.zeros(f.size), torch.ones(f.size)]).double()
                self.register_buffer(f"unit_{f.name}", plain)  # (2, size)
        width = int(encoder.width)  # type: ignore[arg-type]
        told = sum(f.size for f in self.given)
        self.tell = nn.Linear(width + told, width) if told else None
        free = [f for f in self.latent if isinstance(f, Gaussian)] if told else []
        self.priors = nn.ModuleDict({f.name: nn.Linear(told, 2 * f.size) for f in free})
        for parameter in self.priors.parameters():
            nn.init.zeros_(parameter)
        self.heads = nn.ModuleDict(  # law 1: a head per factor, nobody slices
            {f.name: nn.Linear(width, self.classes * f.n_params) for f in self.latent if f.n_params}
        )

    def _check(self) -> None:
        """Raise if the parts don't fit each other."""
        names = [f.name for f in self.latent]
        if not names or len(set(names)) < len(names):
            raise InputError(f"latent factors are named {names}, expected different names")
        if all(f.is_given for f in self.latent):
            raise InputError(f"{names} are all given, expected a factor that is inferred")
        if taken := set(names) & {"nll", "surprise", "loss"}:
            raise InputError(f"factors are named {sorted(taken)}, which are terms of the loss")
        if sum(isinstance(f, Angle) for f in self.latent) > 1:
            raise InputError("found two Angle factors, expected at most one")
        size = sum(f.size for f in self.content)
        if size != self.decoder.content:
            raise InputError(
                f"decoder is for content {self.decoder.content}, but the factors give {size}"
            )
        if self.poses and self.shape[1:] != self.target_shape[1:]:
            raise InputError(
                f"patches of {self.shape[1:]} pixels are decoded to {self.target_shape[1:]}, where "
                f"the pose {self.poses[0].name} has no meaning; leave the pose out"
            )

    def _register_grids(self, turns: Tensor) -> None:
        """Keep the coordinates of pixels, turned copies and branches with the weights."""
        self.copies = len(turns)
        _, h, w = self.shape
        grid = pixel_grid(h, w)
        # What leaves the frame on turning can't be compared: the patch is its inscribed disc.
        inside = (grid.norm(dim=1) <= min(h, w) / max(h, w)) | (self.angle is None)
        copies = torch.einsum("jab,db->jda", turn_matrix(turns), grid).view(-1, h, w, 2)
        target = pixel_grid(*self.target_shape[1:])
        field = inside if len(target) == len(grid) else torch.ones(len(target), dtype=torch.bool)
        outside = ~inside.view(h, w, 1)
        for name, value in {
            "copy_grid": copies.masked_fill(outside, 9.0),  # (J, h, w, 2), far off where not seen
            "copy_field": inside.view(h, w),
            "grid": target,  # (D, 2)
            "turns": turns.repeat_interleave(self.classes),  # (K,)
            "labels": torch.arange(self.classes).repeat(self.copies),
        }.items():
            self.register_buffer(name, value, persistent=False)
        self.count(field)

    def count(self, field: Tensor) -> None:
        """Say which pixels (D,) of the target count, in the bound and in errors."""
        self.register_buffer("field", field, persistent=False)
        self.register_buffer("inside", field.nonzero()[:, 0], persistent=False)

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of a patch."""
        shape: Shape = self.encoder.shape  # type: ignore[assignment]
        return shape

    @property
    def target_shape(self) -> Shape:
        """(channels, height, width) of what is decoded."""
        shape: Shape = self.decoder.shape  # type: ignore[assignment]
        return shape

    def unit(self, name: str) -> Tensor | None:
        """Offset and scale (2, size) of a factor in the units of the user, if it has any."""
        found: Tensor | None = getattr(self, f"unit_{name}", None)
        return found

    @property
    def n_branches(self) -> int:
        """Number of alternatives that are enumerated."""
        return self.copies * self.classes

    def parameters_of(self, image: Tensor, known: Known | None = None) -> dict[str, Tensor]:
        """Give the encoder's numbers for each factor and branch, (B, K, n_params)."""
        batch, k = len(image), self.n_branches
        features = self._features(image)
        if self.tell is not None:
            assert known is not None
            values = torch.cat([known[f.name] for f in self.given], -1)
            values = values.repeat_interleave(self.copies, 0)
            features = self.tell(torch.cat([features, values], -1)).tanh()
        params = {
            f.name: self.heads[f.name](features).view(batch, k, f.n_params)
            for f in self.latent
            if f.n_params
        }
        for f in self.content:
            if f.name in self.priors and known is not None:
                mean, log_sd = params[f.name].chunk(2, -1)
                middle, log_spread = self.prior_of(f, known)
                mean = (mean - middle[:, None]) * (-log_spread[:, None]).exp()
                params[f.name] = torch.cat([mean, log_sd - log_spread[:, None]], -1)
        return params

    def prior_of(self, factor: Factor, values: Known) -> tuple[Tensor, Tensor]:
        """Middle and log spread (B, size) of a continuous content, given the conditions (B, size).

        In units of its prior. Content is what the condition leaves open: were it not counted from
        here, it would tell the condition again (a learnt prior; Sohn, Lee & Yan, NeurIPS 2015).
        """
        told = torch.cat([values[f.name] for f in self.given], -1)
        middle, log_spread = self.priors[factor.name](told).chunk(2, -1)
        return middle, log_spread

    def infer(
        self, image: Tensor, keep: int | None = None, known: Known | None = None
    ) -> Posterior:
        """Give the posterior of normalised images (B, c, h, w), zero where they are masked.

        `keep` leaves only so many of the most probable branches: a narrower family of
        posteriors, so the bound stays a bound. `known` holds observed values of factors by name,
        (B, size), NaN where they are not known.
        """
        known = known or {}
        return self.posterior_of(self.parameters_of(image, known), keep, known)

    def posterior_of(
        self, params: dict[str, Tensor], keep: int | None = None, known: Known | None = None
    ) -> Posterior:
        """Make the posterior of the encoder's numbers (B, K, n_params)."""
        known = known or {}
        any_params = next(iter(params.values()))
        batch, k = any_params.shape[:2]
        frame = Branches(
            any_params.new_zeros(batch, k),
            self.turns.expand(batch, k).to(any_params.dtype),
            self.labels.expand(batch, k),
            self.strides,
        )
        full = posterior(self.latent, params, frame, known)
        if keep is None or keep >= k:
            return full
        params, frame = pick(params, frame, full.branches.log_weight.topk(keep, 1).indices)
        part = posterior(self.latent, params, frame, known)
        # Only the choice among all branches teaches the encoder how probable the known values are.
        return Posterior(part.branches, part.q, known, full.surprise)

    def _features(self, image: Tensor) -> Tensor:
        """Encode the images, each as its copies: (B J, width)."""
        features: Tensor = self.encoder(self._turned(image))
        return features.view(self.copies, len(image), -1).transpose(0, 1).flatten(0, 1)

    def _turned(self, image: Tensor) -> Tensor:
        """Make copies (J B, c, h, w) of the images, each turned back by one of the angles."""
        if self.copies == 1:
            return image * self.copy_field
        b, c, h, w = image.shape
        stack = image.reshape(1, b * c, h, w).expand(self.copies, -1, -1, -1)
        return sample_image(stack, self.copy_grid).view(-1, c, h, w)

    def draw_pixels(self, mask: Tensor, n: int | None) -> tuple[Tensor, Tensor]:
        """Choose pixels of each image at random, without replacement.

        The images of a batch take the pixels in turn, in one random order, so together they see
        each pixel as often as the others.

        Parameters
        ----------
        mask
            (B, D) bool, True for the pixels that count.
        n
            How many; None, or at least as many as there are, takes all of them.

        Returns
        -------
        index, weight
            (B, P) int64 and float: a sum over the chosen pixels with these weights is an
            unbiased estimate of the sum over all pixels that count.
        """
        b, d = mask.shape
        if n is None or n >= len(self.inside):
            return torch.arange(d, device=mask.device).expand(b, d), mask.to(self.grid.dtype)
        order = self.inside[torch.randperm(len(self.inside), device=mask.device)]
        turn = torch.arange(b * n, device=mask.device) % len(order)
        index = order[turn].view(b, n)
        return index, mask.gather(1, index).to(self.grid.dtype) * (len(order) / n)

    def reconstruct(self, z: dict[str, Tensor], coords: Tensor, gate: float = 1.0) -> Tensor:
        """Give the decoder's output (N, P, c) at coordinates (N, P, 2) of the patch.

        `z` holds the value of each factor, (N, size); `gate` scales the continuous content.
        """
        inverse = to_motif(self.poses, z)  # law 3
        if inverse is not None:
            coords = coords @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]
        return self.draw_motif(z, coords, gate)

    def draw_motif(self, z: dict[str, Tensor], coords: Tensor, gate: float = 1.0) -> Tensor:
        """Give the decoder's output (N, P, c) at coordinates (N, P, 2) of the motif.

        Only the content among the values `z` (N, size) is looked at.
        """
        values = [coords.new_zeros(len(coords), 0)]
        for f in self.content:
            value = z[f.name]
            if isinstance(f, Gaussian):
                if f.name in self.priors:
                    middle, log_spread = self.prior_of(f, z)
                    value = f.sigma * middle + log_spread.exp() * value
                value = value * gate
            values.append(value)
        content = torch.cat(values, -1)
        share = coords.new_ones(len(coords), 1)  # of each combination of classes
        for f in self.content:
            if f.name in self.strides:
                share = (share[:, :, None] * z[f.name][:, None]).flatten(1)
        centre = share @ self.centre
        mean: Tensor = self.decoder(content, coords - centre[:, None])  # law 2
        return mean

    @torch.no_grad()
    def recentre(self, image: Tensor, known: Known | None = None) -> None:
        """Put the motif where the shifts of these images average to zero.

        A motif that is drawn off its centre and shifts that undo this give the same images, but
        then the shifts turn with the angle. This moves the common part of the shifts into the
        decoder: the images stay as they are, the prior of the shift fits better.
        """
        shift = next((f for f in self.latent if isinstance(f, Shift)), None)
        if shift is None or shift.name in (known or {}):  # known shifts say where the centre is
            return
        params = self.parameters_of(image, known)
        mean = params[shift.name][..., :2]  # (B, K, 2), in the frame of the motif
        branches = self.posterior_of(params, known=known).branches
        head = self.heads[shift.name]
        assert isinstance(head, nn.Linear)
        bias = head.bias.view(self.classes, -1)
        for label in range(self.classes):
            weight = branches.weight * (branches.label == label)
            mass = weight.sum()
            if mass > 1e-3 * len(image):
                offset = (weight[..., None] * mean).sum((0, 1)) / mass
                bias[label, :2] -= offset
                self.centre[label] += shift.sigma * offset

    def bound(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        *,
        target: Tensor | None = None,
        known: Known | None = None,
        pixels: int | None = None,
        gate: float = 1.0,
        keep: int | None = None,
    ) -> dict[str, Tensor]:
        """Give the terms of the negative evidence lower bound, one sample per branch.

        Parameters
        ----------
        image
            (B, c, h, w) normalised, zero where masked.
        mask
            (B, h, w) bool, True for the pixels of the target that count; None for all.
        target
            (B, c, h, w) of what is decoded, in the units of the likelihood; the image by default.
        known
            Observed values of factors by name, (B, size), NaN where they are not known.
        pixels
            Pixels decoded in each branch; None for all.
        gate
            Factor on the continuous content; below 1 while pose and class are found.
        keep
            Number of branches to keep; None for all.

        Returns
        -------
        dict
            "nll" and the KL of every factor by name, (B,) nats per patch, unweighted. For known
            values the KL is minus their log prior. With `known`, also "surprise": minus the log
            probability that the encoder gives to the known values. It is no part of the bound,
            but what teaches the encoder to predict them.
        """
        state = self.infer(image, keep, known)
        target = image if target is None else target
        b, k = state.branches.label.shape
        valid = self.field.expand(b, -1)
        valid = valid if mask is None else valid & mask.flatten(1)
        index, weight = self.draw_pixels(valid, pixels)  # (B, P)
        values = target.flatten(2).transpose(1, 2)  # (B, D, c)
        values = values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
        coords = self.grid[index].repeat_interleave(k, 0)  # (B K, P, 2)
        flat = {f.name: state.draw(f).flatten(0, 1) for f in self.latent}
        output = self.reconstruct(flat, coords, gate).view(b, k, *values.shape[1:])
        log_p = self.likelihood.log_prob(values[:, None], output)  # (B, K, P)
        terms = {"nll": -state.branches.average((log_p * weight[:, None]).sum(-1))}
        terms |= {f.name: state.kl(f) for f in self.latent if not f.is_given}  # law 4
        return terms | ({"surprise": state.surprise} if known else {})
