"""AtomAI's rVAE or jrVAE on the same images: run as a script in its own environment (`make peer`).

    .venv-peer/bin/python tests/model/peer.py cards.npz --epochs 20 --seed 0 --out encoded.npz

AtomAI brings many packages, so it never shares the environment of atomvae; `peer_angles` is how
the other environment asks for its result. This file therefore imports nothing but numpy at the
top. What to know of AtomAI 0.8.1 when its figures are compared:

- its seed changes the order of the batches and the noise, not the initial weights: two seeds are
  two runs from one start, so their spread says less than that of two starts;
- the last batch that is not full is dropped, in training and in its test loss;
- its loss is 0.5 x the sum of squares (noise of unit variance) plus the KL to its own priors
  (rotation 0.1 rad about a mean that costs nothing, shift 0.1 of half a patch);
- its jrVAE minimises another sum: each KL enters as 30 times its distance from a capacity, so
  `test_loss` is no bound there; `kl` is the plain sum, with that of the classes as it defines it;
- full decoding makes temporaries of 10 to 100 MB per batch, so page faults take up to half of its
  CPU time: with `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` at 4000000000 an epoch took
  22 instead of 30 to 36 CPU s (2,200 images of 48 x 48) at the same loss; quote which one it is;
- it writes `model.tar` to the working directory after each epoch, here to one that is thrown away.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PEER = ".venv-peer/bin/python"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
BATCH = 100
DRAWS = 4  # samples of each posterior: one of 500 images is off by 1 or 2 nats
HELD_OUT = 0.1


def peer_angles(
    images,
    epochs,
    seed,
    python=PEER,
    *,
    held_out=None,
    learning_rate=1e-4,
    skip=True,
    rotation_prior=0.1,
    classes=0,
    threads=1,
):
    """Train AtomAI's rVAE, or jrVAE, in its own environment and encode all images.

    Parameters
    ----------
    images : array, (n, h, w)
        Handed over as they are, in float32.
    epochs, seed : int
    python : str or path
        Interpreter that has AtomAI; relative to the root of the repository.
    held_out : bool array, (n,), optional
        Images kept for the test loss; else the last whole batches that hold at least a tenth.
    learning_rate, rotation_prior : float
        AtomAI's defaults; its examples use a rotation prior of pi / 2.
    skip : bool
        The skip decoder.
    classes : int
        Of its jrVAE; 0 for its rVAE.
    threads : int
        That it computes with.

    Returns
    -------
    dict of arrays
        angle (n,) radians, counter-clockwise with y down, not wrapped; shift (n, 2) pixels (y, x);
        z (n, 2); sd (n, 5) of AtomAI's raw angle, two shifts and content; held_out (n,);
        train_loss and test_loss (epochs,) nats per image; train_cpu_seconds and
        train_wall_seconds (epochs,) of the training alone; cpu_seconds of all epochs with their
        test losses; version; and of the m images held out drawn (DRAWS, m, h, w), decoded from
        samples of their posteriors after the last epoch, and kl (m,), nats.

    Examples
    --------
    >>> peer_angles(np.zeros((200, 8, 8)), epochs=1, seed=0, python="nowhere/bin/python")
    Traceback (most recent call last):
    ...
    FileNotFoundError: no nowhere/bin/python: AtomAI has no environment yet; run make peer
    """
    interpreter = ROOT / python
    if not interpreter.exists():
        raise FileNotFoundError(f"no {python}: AtomAI has no environment yet; run make peer")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "images.npz"), Path(folder, "encoded.npz")
        mask = {} if held_out is None else {"held_out": held_out}
        np.savez(source, images=np.asarray(images, dtype=np.float32), **mask)
        command = [interpreter, "-I", __file__, source, "--out", target, "--epochs", epochs]
        command += ["--seed", seed, "--learning-rate", learning_rate]
        command += ["--rotation-prior", rotation_prior, "--classes", classes]
        command += ["--threads", threads]
        command += ["--skip" if skip else "--no-skip"]
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True, text=True, check=False,
            env=os.environ | dict.fromkeys(THREADS, str(threads)),
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"AtomAI stopped with status {done.returncode}: {last}")
        with np.load(target) as encoded:
            return dict(encoded)


def load_atomai(threads=1):
    """Import AtomAI, for the CPU alone, also where torchvision misses its operators."""
    os.environ.update(dict.fromkeys(THREADS, str(threads)), MPLBACKEND="Agg")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(threads)
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        # torchvision built for CUDA beside torch for the CPU: its library does not load, and its
        # Python part stops at the first operator. An rVAE calls neither of the two.
        if "torchvision::" not in str(error):
            raise
        for operator in ("nms", "qnms"):
            signature = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", signature)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    import atomai

    return atomai


def last_batches(n, batch=BATCH, fraction=HELD_OUT):
    """Mask (n,) of the last images: whole batches that hold at least this fraction.

    >>> int(last_batches(2500).sum())
    300
    """
    held = batch * int(np.ceil(fraction * n / batch))
    return np.arange(n) >= n - held


def image_pose(latents, shape, translation_prior=0.1):
    """Angle and shift in the image from AtomAI's raw ones.

    AtomAI turns the sampling grid (row, minus column) by its angle and then adds the shift, so
    that the motif appears turned counter-clockwise by that angle (y down) and its origin where the
    sampled coordinate is 0.

    Parameters
    ----------
    latents : array, (n, >= 3)
        Angle in radians; shifts in units of the prior times half a patch.
    shape : (h, w)
    translation_prior : float

    Returns
    -------
    angle : array, (n,)
    shift : array, (n, 2)
        Pixels (y, x) from the centre of the patch to the origin of the motif.

    Examples
    --------
    >>> angle, shift = image_pose(np.array([[np.pi / 2, 1.0, 0.0]]), shape=(41, 41))
    >>> shift.round(6) + 0.0
    array([[ 0., -2.]])
    """
    angle = latents[:, 0]
    cos, sin = np.cos(angle), np.sin(angle)
    row, column = translation_prior * latents[:, 1:3].T
    y = -(cos * row + sin * column)
    x = cos * column - sin * row
    return angle, np.stack([y, x], axis=1) * (np.array(shape) - 1) / 2


def draw(model, images):
    """Decode samples of the posterior of each image: (DRAWS, n, h, w), and the KL (n,) in nats."""
    from atomai.losses_metrics.vi_losses import kld_normal, kld_rot

    drawn, kls = [], []

    def catch(x, reconstruction, mean, log_sd, alphas=(), **settings):
        kl = kld_rot(settings["phi_prior"], log_sd[:, 0]) + kld_normal([mean[:, 1:], log_sd[:, 1:]])
        for alpha in alphas:
            kl = kl + (alpha * (np.log(alpha.shape[1]) + (alpha + 1e-12).log())).sum(1)
        drawn.append(reconstruction.reshape(x.shape).numpy())
        kls.append(kl.numpy())

    model.elbo_fn = catch
    for start in range(0, DRAWS * len(images), BATCH):
        rows = np.arange(start, min(start + BATCH, DRAWS * len(images))) % len(images)
        model.forward_compute_elbo(model._2torch(images[rows])[0], mode="eval")
    drawn = np.concatenate(drawn).reshape(DRAWS, *images.shape)
    return drawn, np.concatenate(kls)[: len(images)]


def train(images, held_out, args):
    """Train and encode: the arrays of `peer_angles`."""
    atomai = load_atomai(args.threads)
    from torch.optim import Adam

    seconds, walls = [], []
    kind = atomai.models.jrVAE if args.classes else atomai.models.rVAE
    more = {"discrete_dim": [args.classes]} if args.classes else {}

    class Timed(kind):
        def train_epoch(self):
            start, wall = time.process_time(), time.perf_counter()
            loss = super().train_epoch()
            seconds.append(time.process_time() - start)
            walls.append(time.perf_counter() - wall)
            return loss

        def print_statistics(self, e):
            super().print_statistics(e)
            print(f"  training of this epoch: {seconds[-1]:.1f} CPU s", flush=True)

    model = Timed(
        images.shape[1:], latent_dim=2, translation=True, seed=args.seed, skip=args.skip, **more
    )  # fmt: skip
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        model.fit(
            images[~held_out],
            X_test=images[held_out],
            training_cycles=args.epochs,
            batch_size=BATCH,
            rotation_prior=args.rotation_prior,
            optimizer=lambda parameters: Adam(parameters, lr=args.learning_rate),
        )
    total = time.process_time() - start
    mean, log_sd = model.encode(images)[:2]
    drawn, kl = draw(model, images[held_out])
    angle, shift = image_pose(mean, images.shape[1:])
    history = model.loss_history
    return {
        "angle": angle,
        "shift": shift,
        "z": mean[:, 3:],
        "sd": np.exp(log_sd),
        "held_out": held_out,
        "train_loss": -np.array(history["train_loss"]),
        "test_loss": -np.array(history["test_loss"]),
        "train_cpu_seconds": np.array(seconds),
        "train_wall_seconds": np.array(walls),
        "cpu_seconds": total,
        "drawn": drawn,
        "kl": kl,
        "version": atomai.__version__,
    }


def read_images(path):
    """Images (n, h, w) float32 and the mask (n,) of those held out, or a ValueError."""
    with np.load(path) as arrays:
        if "images" not in arrays:
            raise ValueError(f"{path} has no array images; write one of shape (n, h, w)")
        images = arrays["images"]
        held_out = arrays["held_out"] if "held_out" in arrays else last_batches(len(images))
    if images.ndim != 3 or held_out.shape != images.shape[:1]:
        raise ValueError(
            f"images are {images.shape} and held_out {held_out.shape}; expected (n, h, w) and (n,)"
        )
    images, held_out = images.astype(np.float32), held_out.astype(bool)
    if min(held_out.sum(), (~held_out).sum()) < BATCH:
        # AtomAI would report a loss of 0 and train nothing
        raise ValueError(
            f"{(~held_out).sum()} images to train on and {held_out.sum()} held out; expected at "
            f"least {BATCH} of each, one batch"
        )
    if not np.isfinite(images).all():
        raise ValueError("images hold values that are not finite; fill them first")
    return images, held_out


def main():
    parser = argparse.ArgumentParser(description="AtomAI's rVAE or jrVAE on a stack of images")
    parser.add_argument("images", type=Path, help="npz: images (n, h, w), held_out (n,) if wanted")
    parser.add_argument("--out", type=Path, default=Path("encoded.npz"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="batches and noise, not the weights")
    parser.add_argument("--skip", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--classes", type=int, default=0, help="of a jrVAE; 0 for an rVAE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rotation-prior", type=float, default=0.1, help="sd in radians")
    args = parser.parse_args()
    try:
        images, held_out = read_images(args.images)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    np.savez(args.out, **train(images, held_out, args))


if __name__ == "__main__":
    main()
