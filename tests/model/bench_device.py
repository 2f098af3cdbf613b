"""An epoch, an encoding and a step on a device: `python -m tests.model.bench_device --device cuda`.

- The seconds of one epoch over so many patches of 32 x 32, kept as bytes, and patches a minute.
- Patches a minute that `encode` makes a table of.
- A step against its limit, the larger of its products at the device's rate of products and its
  traffic at the device's rate of copies (see bench_limit, which does this on a CPU).

Seconds are by the wall, after all work on the device is done.
"""

import argparse
import time

import numpy as np
import torch

from atomvae.datasets.cards import cards
from atomvae.model import zoo
from atomvae.model.config import TrainConfig
from atomvae.model.encode import encode
from atomvae.model.precision import products as precise
from atomvae.model.train import train
from tests.model.bench_limit import operations_and_bytes
from tests.model.bench_train import machine

SIDE = 32
MADE = 2000  # patches that are drawn; the others repeat them


def wait(device):
    """Return when the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work, device, times=20):
    """Seconds by the wall of a call, the mean of so many after three."""
    for _ in range(3):
        work()
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - start) / times


def patches(n):
    """Cards as bytes, (n, 32, 32) uint8."""
    images = cards(120, 20, MADE, size=SIDE, noise=0.1, seed=0).images
    low, high = images.min(), images.max()
    scaled = ((images - low) / (high - low) * 255).astype(np.uint8)
    return np.tile(scaled, (-(-n // MADE), 1, 1))[:n]


def limit(device, batch):
    """Seconds of a step of forward, backward and Adam, and the two floors under it."""
    model = zoo.skip_rvae((SIDE, SIDE)).to(device).train()
    image = torch.randn(batch, 1, SIDE, SIDE, device=device)
    arguments = {"image": image, "pixels": round(2.7 * SIDE) // 2, "keep": 2}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        sum(term.mean() for term in model.bound(**arguments).values()).backward()
        optimizer.step()

    seconds = seconds_of(step, device)
    operations, moved = operations_and_bytes(model, arguments)
    a = torch.randn(4096 if device.type == "cuda" else 1024, 1024, device=device)
    b, out = torch.randn(1024, 1024, device=device), torch.empty(len(a), 1024, device=device)
    rate = 2 * len(a) * 1024**2 / seconds_of(lambda: torch.mm(a, b, out=out), device)
    source = torch.randn(moved // 8, device=device)
    target = torch.empty_like(source)
    copied = moved / seconds_of(lambda: target.copy_(source), device)
    return seconds, operations / rate, moved / copied


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--patches", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512, 4096])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.exit(message="no GPU here that torch can use; choose --device cpu\n")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}: {machine()}\n")
    images = patches(arguments.patches)
    model = zoo.skip_rvae((SIDE, SIDE))
    for batch in arguments.batches:
        with precise(TrainConfig().matmul_precision):
            seconds, arithmetic, traffic = limit(device, batch)
        print(
            f"step of {batch}: {seconds * 1e3:.2f} ms, products {arithmetic * 1e3:.2f} ms, traffic "
            f"{traffic * 1e3:.2f} ms: {seconds / max(arithmetic, traffic):.1f} times the limit",
            flush=True,
        )
    config = TrainConfig(epochs=1, device=arguments.device, first_guess=False)
    start = time.perf_counter()
    train(model, images, config)
    seconds = time.perf_counter() - start
    print(f"one epoch of {len(images)} patches: {seconds:.1f} s", flush=True)
    start = time.perf_counter()
    encode(model, images, device=arguments.device)
    rate = len(images) / (time.perf_counter() - start) * 60
    print(f"encode: {rate:.3g} patches a minute")


if __name__ == "__main__":
    main()
