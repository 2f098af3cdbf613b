"""A training step against the limit of the machine: `python -m tests.model.bench_limit`.

The step is that of a default skip_rvae once its pose is found: `bound` on a batch, backward, Adam.
Its limit is the larger of two times, at rates that are measured in the same run:

- arithmetic: operations (two per multiply-add) of all matrix products, forward and backward, as
  torch counts them, at the rate of the fastest matrix product, of the step's own size or 1024^3,
  in the precision that training has by default (bfloat16 where the processor multiplies it);
- traffic: bytes at the rate of a copy as large. Counted are 9 passes over the parameters (read
  forward, read backward, gradient written and read, parameter and the two moments of Adam read and
  written), every tensor that is kept for backward, written once and read once, and the patches.

Not counted: tanh, sine, cosine, drawing of pixels and noise, and what a fused step would not write.
"""

import argparse
import statistics
import time
from itertools import pairwise

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from atomvae.datasets.cards import cards
from atomvae.model import zoo
from atomvae.model.config import BATCH, TrainConfig
from atomvae.model.precision import products as precise
from atomvae.model.train import train
from tests.model.bench_train import machine

IMAGES, EPOCHS = 1280, 4
PASSES = 9  # over the parameters
NUMBER = 4  # bytes of a float32


def seconds_of(work, least=0.3):
    """CPU seconds of a call: median of as many as fit into the least time, at least five."""
    work()
    times, start = [], time.process_time()
    while len(times) < 5 or time.process_time() - start < least:
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def product_rate(rows, inner, columns):
    """Operations per second of a matrix product in float32, two per multiply-add."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    out = torch.empty(rows, columns)
    return 2 * rows * inner * columns / seconds_of(lambda: torch.mm(a, b, out=out))


def copy_rate(size):
    """Bytes per second that are read and written by a copy of so many bytes."""
    source = torch.randn(max(1, size // NUMBER))
    target = torch.empty_like(source)
    return 2 * source.numel() * NUMBER / seconds_of(lambda: target.copy_(source))


def step_of(side):
    """A trained model, the arguments of `bound` in its last steps, and CPU s per step there."""
    images = cards(120, 20, IMAGES, size=side, noise=0.1, seed=0).images
    config = TrainConfig(epochs=EPOCHS, batch_size=BATCH, first_guess=False, device="cpu")
    model, clock = zoo.skip_rvae((side, side)), []
    train(model, images, config, progress=lambda _: clock.append(time.process_time()))
    last = clock[-len(clock) // 4 :]
    seconds = statistics.median(b - a for a, b in pairwise(last))
    config = config.resolve(IMAGES, (1, side, side))
    keep = min(config.keep_branches, model.n_branches)
    pixels = torch.from_numpy(images[: config.batch_size].astype("float32"))[:, None]
    batch = (pixels - float(model.offset)) / float(model.scale)
    return model.train(), {"image": batch, "pixels": config.pixels // keep, "keep": keep}, seconds


def operations_and_bytes(model, arguments):
    """Operations and bytes of a step, see the head of this file."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(note, lambda t: t):
        sum(term.mean() for term in model.bound(**arguments).values()).backward()
    parameters = PASSES * NUMBER * sum(p.numel() for p in model.parameters())
    image = arguments["image"]
    return counter.get_total_flops(), parameters + 2 * sum(kept.values()) + image.nbytes


def row(side):
    """Cells of the table for square patches of this side."""
    model, arguments, seconds = step_of(side)
    operations, moved = operations_and_bytes(model, arguments)
    rows = len(arguments["image"]) * arguments["keep"] * arguments["pixels"]
    products = product_rate(rows, 128, 128), product_rate(1024, 1024, 1024)
    copied = copy_rate(moved // 2)
    limits = operations / max(products), moved / copied
    return [
        f"{side} x {side}", f"{seconds * 1e3:.2f}", f"{operations / 1e9:.3f}", f"{moved / 1e6:.1f}",
        f"{products[0] / 1e9:.1f}, {products[1] / 1e9:.1f}", f"{copied / 1e9:.1f}",
        f"{limits[0] * 1e3:.2f}", f"{limits[1] * 1e3:.2f}", f"{seconds / max(limits):.1f}",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sides", nargs="*", type=int, default=[48, 32], help="of patches, pixels")
    sides = parser.parse_args().sides
    torch.set_num_threads(1)
    print(f"A step of skip_rvae against the limit: {machine()}\n")
    print(
        "| patch | step, CPU ms | 10^9 operations | MB | GFLOP/s of products: own size, 1024^3 "
        "| copy, GB/s | arithmetic, ms | traffic, ms | step / limit |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with precise(TrainConfig().matmul_precision):
        for side in sides:
            print("| " + " | ".join(row(side)) + " |", flush=True)


if __name__ == "__main__":
    main()
