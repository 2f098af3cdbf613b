"""A pipeline in a process that is killed; its units of work are small, so that kills fall between.

Run as a script: ``python killed_run.py SETTINGS.yaml OUT``.
"""

import dataclasses
import sys


def main(settings: str, out: str) -> None:
    import atomvae.model.train as training
    from atomvae.run import stages
    from atomvae.run.pipeline import run_pipeline

    plan = stages._plan

    def small_shards(work, atoms):
        return dataclasses.replace(plan(work, atoms), shard_rows=64)

    stages._plan = small_shards
    stages.PIXELS_PER_TASK = 128 * 128  # a frame per block
    training.SAVE_SECONDS = 0.0  # a checkpoint per epoch
    print("ready", flush=True)
    run_pipeline(settings, out=out)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
