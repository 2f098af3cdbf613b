"""One model for the whole family: a product of latent factors, an encoder, a decoder, a noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from atomvae.errors import InputError
from atomvae.latent import Angle, Branches, Categorical, Factor, Pose, Shift
from atomvae.latent.pose import to_motif, turn_matrix
from atomvae.model.likelihood import GaussianNoise
from atomvae.model.networks import Shape, pixel_grid, sample_image


@dataclass(frozen=True)
class Posterior:
    """What the encoder says of a batch: probabilities of the branches, distributions in each.

    Parameters
    ----------
    branches
        Alternatives that are enumerated.
    q
        Distribution of each factor by name, batch shape (B, K), event shape (size,).
    """

    branches: Branches
    q: dict[str, Distribution]


class Model(nn.Module):
    """A variational autoencoder over a product of named factors.

    Four laws: encoder outputs concatenate (one linear head per factor); content concatenates;
    poses multiply; KLs add. A variant is a choice of factors and networks, see `zoo`.

    Parameters
    ----------
    latent
        Factors with different names; at most one `Angle` and one `Categorical`.
    encoder
        Maps (N, c, h, w) to (N, width).
    decoder
        Maps content (N, d) and coordinates (N, P, 2) to (N, P, c).
    likelihood
        Noise model.

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
    grid: Tensor
    field: Tensor
    turns: Tensor
    labels: Tensor
    copy_grid: Tensor
    centre: Tensor
    trained: Tensor

    def __init__(
        self,
        latent: Sequence[Factor],
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: GaussianNoise,
    ) -> None:
        super().__init__()
        self.latent = tuple(latent)
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.content = [f for f in self.latent if not f.is_pose]
        self.poses = [f for f in self.latent if isinstance(f, Pose)]
        self._check()
        self.angle = next((f for f in self.latent if isinstance(f, Angle)), None)
        self.classes = next((f.size for f in self.latent if isinstance(f, Categorical)), 1)
        turns = torch.tensor(self.angle.turns if self.angle else [0.0])
        self.copies = len(turns)
        c, h, w = self.shape
        grid = pixel_grid(h, w)
        inside = grid.norm(dim=1) <= min(h, w) / max(h, w)
        self.register_buffer("grid", grid, persistent=False)  # (D, 2)
        # What leaves the frame on turning can't be compared: the patch is its inscribed disc.
        self.register_buffer("field", inside | (self.angle is None), persistent=False)  # (D,)
        copies = torch.einsum("jab,db->jda", turn_matrix(turns), grid).view(-1, h, w, 2)
        self.register_buffer("copy_grid", copies, persistent=False)  # (J, h, w, 2)
        self.register_buffer("turns", turns.repeat_interleave(self.classes), persistent=False)
        labels = torch.arange(self.classes).repeat(self.copies)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("offset", torch.zeros(c, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(c, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(self.classes, 2))  # of the motif, half sides
        self.register_buffer("trained", torch.tensor(False))
        width = int(encoder.width)  # type: ignore[arg-type]
        self.heads = nn.ModuleDict(  # law 1: a head per factor, nobody slices
            {f.name: nn.Linear(width, self.classes * f.n_params) for f in self.latent}
        )

    def _check(self) -> None:
        """Raise if the parts don't fit each other."""
        names = [f.name for f in self.latent]
        if not names or len(set(names)) < len(names):
            raise InputError(f"latent factors are named {names}, expected different names")
        for kind in (Angle, Categorical):
            if sum(isinstance(f, kind) for f in self.latent) > 1:
                raise InputError(f"found two {kind.__name__} factors, expected at most one")
        size = sum(f.size for f in self.content)
        if size != self.decoder.content or self.encoder.shape != self.decoder.shape:
            raise InputError(
                f"decoder is for content {self.decoder.content} and shape {self.decoder.shape}, "
                f"but the factors give {size} and the encoder expects {self.encoder.shape}"
            )

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of a patch."""
        shape: Shape = self.encoder.shape  # type: ignore[assignment]
        return shape

    @property
    def n_branches(self) -> int:
        """Number of alternatives that are enumerated."""
        return self.copies * self.classes

    def infer(self, image: Tensor, keep: int | None = None) -> Posterior:
        """Give the posterior of normalised images (B, c, h, w), zero where they are masked.

        `keep` leaves only so many of the most probable branches: a narrower family of
        posteriors, so the bound stays a bound.
        """
        batch, k = len(image), self.n_branches
        features = self.encoder(self._turned(image))  # (B J, width)
        params = {
            f.name: self.heads[f.name](features).view(batch, k, f.n_params) for f in self.latent
        }
        logit = sum(
            (params[f.name][..., 0] for f in self.latent if f.chooses),
            start=features.new_zeros(batch, k),
        )  # (B, K): logits add
        turn, label = self.turns.expand(batch, k), self.labels.expand(batch, k)
        if keep is not None and keep < k:
            logit, top = logit.topk(keep, 1)
            turn, label = turn.gather(1, top), label.gather(1, top)
            params = {
                n: p.gather(1, top[..., None].expand(-1, -1, p.shape[-1]))
                for n, p in params.items()
            }
        branches = Branches(logit.log_softmax(1), turn, label)
        q: dict[str, Distribution] = {}
        if self.angle is not None:  # the other factors are told of the angle of the motif
            name = self.angle.name
            q[name] = self.angle.posterior(params[name], branches)
            branches = replace(branches, turn=q[name].mean[..., 0])
        for f in self.latent:
            if f.name not in q:
                q[f.name] = f.posterior(params[f.name], branches)
        return Posterior(branches, q)

    def _turned(self, image: Tensor) -> Tensor:
        """Make copies (B J, c, h, w) of the images, each turned back by one of the angles."""
        if self.copies == 1:
            return image * self.field.view(image.shape[-2:])
        b, c, h, w = image.shape
        stack = image.reshape(1, b * c, h, w).expand(self.copies, -1, -1, -1)
        copies = sample_image(stack, self.copy_grid) * self.field.view(h, w)  # (J, B c, h, w)
        return copies.view(-1, b, c, h, w).transpose(0, 1).reshape(-1, c, h, w)

    def draw_pixels(self, mask: Tensor, n: int | None) -> tuple[Tensor, Tensor]:
        """Choose pixels of each image at random, without replacement.

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
        if n is None or n >= d:
            return torch.arange(d, device=mask.device).expand(b, d), mask.to(self.grid.dtype)
        score = torch.rand(b, d, device=mask.device).masked_fill(~mask, -1.0)
        index = score.topk(n, 1, sorted=False).indices
        count = mask.sum(1, keepdim=True)
        weight = mask.gather(1, index) * (count / count.clamp(1, n))
        return index, weight.to(self.grid.dtype)

    def reconstruct(self, z: dict[str, Tensor], coords: Tensor, gate: float = 1.0) -> Tensor:
        """Give the mean image (N, P, c) at coordinates (N, P, 2) of the patch, normalised units.

        `z` holds the value of each factor, (N, size); `gate` scales the content.
        """
        inverse = to_motif(self.poses, z)  # law 3
        if inverse is not None:
            coords = coords @ inverse[:, :2, :2].transpose(1, 2) + inverse[:, None, :2, 2]
        return self.draw_motif(z, coords, gate)

    def draw_motif(self, z: dict[str, Tensor], coords: Tensor, gate: float = 1.0) -> Tensor:
        """Give the mean image (N, P, c) at coordinates (N, P, 2) of the motif.

        Only the content among the values `z` (N, size) is looked at.
        """
        values = [z[f.name] for f in self.content]
        content = torch.cat(values, -1) * gate if values else coords.new_zeros(len(coords), 0)
        centre = self.centre[:1]
        for f in self.content:
            centre = z[f.name] @ self.centre if isinstance(f, Categorical) else centre
        mean: Tensor = self.decoder(content, coords - centre[:, None])  # law 2
        return mean

    @torch.no_grad()
    def recentre(self, image: Tensor) -> None:
        """Put the motif where the shifts of these images average to zero.

        A motif that is drawn off its centre and shifts that undo this give the same images, but
        then the shifts turn with the angle. This moves the common part of the shifts into the
        decoder: the images stay as they are, the prior of the shift fits better.
        """
        shift = next((f for f in self.latent if isinstance(f, Shift)), None)
        if shift is None:
            return
        b, k = len(image), self.n_branches
        mean = self.heads[shift.name](self.encoder(self._turned(image))).view(b, k, -1)[..., :2]
        branches = self.infer(image).branches
        head = self.heads[shift.name]
        assert isinstance(head, nn.Linear)
        bias = head.bias.view(self.classes, -1)
        for label in range(self.classes):
            weight = branches.weight * (branches.label == label)
            mass = weight.sum()
            if mass > 1e-3 * b:
                offset = (weight[..., None] * mean).sum((0, 1)) / mass
                bias[label, :2] -= offset
                self.centre[label] += shift.sigma * offset

    def bound(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        *,
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
            (B, h, w) bool, True for the pixels that count; None for all.
        pixels
            Pixels decoded in each branch; None for all.
        gate
            Factor on the content; below 1 while the pose is found.
        keep
            Number of branches to keep; None for all.

        Returns
        -------
        dict
            "nll" and the KL of every factor by name, (B,) nats per patch, unweighted.
        """
        posterior = self.infer(image, keep)
        branches = posterior.branches
        b, k = branches.label.shape
        valid = self.field.expand(b, -1)
        valid = valid if mask is None else valid & mask.flatten(1)
        index, weight = self.draw_pixels(valid, pixels)  # (B, P)
        values = image.flatten(2).transpose(1, 2)  # (B, D, c)
        target = values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
        coords = self.grid[index].repeat_interleave(k, 0)  # (B K, P, 2)
        z = {f.name: f.draw(posterior.q[f.name]) for f in self.latent}
        flat = {name: value.flatten(0, 1) for name, value in z.items()}
        mean = self.reconstruct(flat, coords, gate).view(b, k, *target.shape[1:])
        log_p = self.likelihood.log_prob(target[:, None], mean)  # (B, K, P)
        terms = {"nll": -branches.average((log_p * weight[:, None]).sum(-1))}
        return terms | {f.name: f.kl(posterior.q[f.name], branches) for f in self.latent}  # law 4
