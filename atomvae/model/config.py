"""Settings of a training, and how those that are not given follow from the patches."""

import math
from typing import Literal

from pydantic import Field

from atomvae.settings import Settings, unit

STEPS = 600  # of a default run: enough for content and pose of a few thousand patches
BATCH = 64  # patches per step of such a run
# Small batches reach a loss with the fewest patches, until their noise is all that is left; so a
# batch grows with the square root of the patches that a run sees, which is BATCH after STEPS.
BATCHES = (8, 512)
PEAK = 3e-3  # learning rate of a run of STEPS; a shorter one must hurry, up to twice as fast


class TermWeight(Settings):
    """How one term of the bound enters the objective, other than with weight one.

    Examples
    --------
    >>> TermWeight(term="z", weight=4.0).target(0.5) is None  # beta-VAE
    True
    >>> TermWeight(term="class", weight=30.0, capacity_nats=1.0).target(0.4)
    0.5
    """

    term: str
    """Name of a factor, nll, or surprise (at known values)."""
    weight: float = Field(default=1.0, ge=0)
    """Factor on the term (beta), or on its distance from the capacity."""
    capacity_nats: float | None = Field(default=None, ge=0)
    """Draw the batch mean of the term to this many nats; None weighs the term itself."""
    capacity_reached: float = Field(default=0.8, gt=0, le=1)
    """Fraction of the run after which the capacity has risen from zero to its value."""

    def target(self, fraction: float) -> float | None:
        """Capacity in nats after a fraction of the run."""
        if self.capacity_nats is None:
            return None
        return self.capacity_nats * min(1.0, fraction / self.capacity_reached)


class TrainConfig(Settings):
    """Settings of `train`; None is taken from the number and size of the patches.

    Examples
    --------
    >>> TrainConfig(seed=3).resolve(5000, (1, 32, 32)).epochs
    9
    """

    epochs: int | None = Field(default=None, ge=1, json_schema_extra=unit("passes"))
    """Passes over the patches, at most."""
    batch_size: int | None = Field(default=None, ge=1, json_schema_extra=unit("patches"))
    """Patches per step."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak of the one-cycle schedule."""
    pixels: int | None = Field(default=None, ge=1, json_schema_extra=unit("px"))
    """Pixels decoded per patch and step, shared by the turned copies and classes."""
    keep_branches: int | None = Field(default=None, ge=1)
    """Turned copies times classes that are still decoded once the pose is found."""
    patience: int | None = Field(default=None, ge=1, json_schema_extra=unit("epochs"))
    """Stop after so many epochs without a better held-out score; None is a third of all, for it
    is when the learning rate falls that most is gained."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the patches, in blocks of frames, on which the model is judged."""
    first_guess: bool = True
    """Start an untrained model from angles and classes found by comparing patches."""
    weights: tuple[TermWeight, ...] = ()
    """Terms that don't enter the objective with weight one (beta, capacity)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split, the order of the patches and all draws."""
    device: str = "auto"
    """auto, cpu or cuda."""
    memory_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Patches that need more are read from disk; None is a quarter of the free memory."""
    processes: int = Field(default=1, ge=1)
    """Processes that share the work, on as many GPUs or CPU cores, or members of an ensemble that
    are trained at the same time; a script that asks for more than one must begin its work under
    ``if __name__ == "__main__":``."""
    matmul_precision: Literal["highest", "high", "medium"] = "medium"
    """Of products of float32 matrices while training, as torch names it: medium is bfloat16 with
    float32 sums where the processor has it; gradients are noisier than that anyway."""
    parts: int = Field(default=1, ge=1)
    """Parts of a batch that draw apart, at least one a process: one process that does two parts
    ends where two processes end."""

    def resolve(self, n: int, shape: tuple[int, ...]) -> "TrainConfig":
        """Fill in what is None, for n patches of a shape (..., height, width)."""
        fitted = n * (1 - self.held_out)
        most = max(BATCHES[0], n // 8)
        batch = self.batch_size or min(BATCH, most)
        epochs = self.epochs or max(5, math.ceil(STEPS / max(math.ceil(fitted / batch), 1)))
        if not self.batch_size:
            share = math.sqrt(epochs * fitted / (STEPS * BATCH))
            near = 2 ** round(math.log2(max(share * BATCH, 1)))
            batch = min(most, max(BATCHES[0], min(BATCHES[1], near)))
        steps = epochs * math.ceil(fitted / batch)
        hurry = min(2.0, max(1.0, (STEPS / max(steps, 1)) ** (1 / 3)))
        side = math.sqrt(shape[-2] * shape[-1])
        return self.model_copy(
            update={
                "batch_size": batch,
                "epochs": epochs,
                "patience": self.patience or max(10, math.ceil(epochs / 3)),
                "learning_rate": self.learning_rate or PEAK * hurry,
                "pixels": self.pixels or max(32, round(2.7 * side)),
                "keep_branches": self.keep_branches or 2,
            }
        )
