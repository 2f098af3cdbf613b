"""From a STEM movie to what its local structure is doing.

The nouns and verbs of the package, loaded when first used::

    read_movie -> correct_drift -> detect_atoms -> link_atoms -> cut_patches -> train -> encode
    -> map_latents -> to_layers
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that defines it; nothing is imported before it is asked for.
_HOME = {
    "InputError": "atomvae.errors",
    "Movie": "atomvae.movie.movie",
    "read_movie": "atomvae.movie.read",
    "estimate_drift": "atomvae.movie.drift",
    "correct_drift": "atomvae.movie.drift",
    "DriftConfig": "atomvae.movie.drift",
    "DetectConfig": "atomvae.atoms.config",
    "detect_frame": "atomvae.atoms.detect",
    "detect_atoms": "atomvae.atoms.detect",
    "read_atoms": "atomvae.atoms.read",
    "LinkConfig": "atomvae.atoms.link",
    "link_atoms": "atomvae.atoms.link",
    "cut_patches": "atomvae.patches.cut",
    "PatchStore": "atomvae.patches.store",
    "Model": "atomvae.model.model",
    "zoo": "atomvae.model.zoo",
    "TrainConfig": "atomvae.model.config",
    "train": "atomvae.model.train",
    "encode": "atomvae.model.encode",
    "train_ensemble": "atomvae.model.ensemble",
    "train_sweep": "atomvae.model.sweep",
    "encode_ensemble": "atomvae.model.agreement",
    "decode": "atomvae.model.decode",
    "manifold": "atomvae.model.decode",
    "reconstruct": "atomvae.model.draw",
    "sample": "atomvae.model.draw",
    "traverse": "atomvae.model.draw",
    "interpolate": "atomvae.model.draw",
    "save_model": "atomvae.model.files",
    "load_model": "atomvae.model.files",
    "map_latents": "atomvae.maps.latents",
    "simulate": "atomvae.datasets.simulate",
    "cards": "atomvae.datasets.cards",
    "digits": "atomvae.datasets.digits",
    "mnist": "atomvae.datasets.digits",
    "to_layers": "atomvae.viewer.layers",
    "RunFolder": "atomvae.run.folder",
    "run_pipeline": "atomvae.run.pipeline",
    "report": "atomvae.run.report",
    "report_figures": "atomvae.run.report",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from atomvae.atoms.config import DetectConfig as DetectConfig
    from atomvae.atoms.detect import detect_atoms as detect_atoms
    from atomvae.atoms.detect import detect_frame as detect_frame
    from atomvae.atoms.link import LinkConfig as LinkConfig
    from atomvae.atoms.link import link_atoms as link_atoms
    from atomvae.atoms.read import read_atoms as read_atoms
    from atomvae.datasets.cards import cards as cards
    from atomvae.datasets.digits import digits as digits
    from atomvae.datasets.digits import mnist as mnist
    from atomvae.datasets.simulate import simulate as simulate
    from atomvae.errors import InputError as InputError
    from atomvae.maps.latents import map_latents as map_latents
    from atomvae.model import zoo as zoo
    from atomvae.model.agreement import encode_ensemble as encode_ensemble
    from atomvae.model.config import TrainConfig as TrainConfig
    from atomvae.model.decode import decode as decode
    from atomvae.model.decode import manifold as manifold
    from atomvae.model.draw import interpolate as interpolate
    from atomvae.model.draw import reconstruct as reconstruct
    from atomvae.model.draw import sample as sample
    from atomvae.model.draw import traverse as traverse
    from atomvae.model.encode import encode as encode
    from atomvae.model.ensemble import train_ensemble as train_ensemble
    from atomvae.model.files import load_model as load_model
    from atomvae.model.files import save_model as save_model
    from atomvae.model.model import Model as Model
    from atomvae.model.sweep import train_sweep as train_sweep
    from atomvae.model.train import train as train
    from atomvae.movie.drift import DriftConfig as DriftConfig
    from atomvae.movie.drift import correct_drift as correct_drift
    from atomvae.movie.drift import estimate_drift as estimate_drift
    from atomvae.movie.movie import Movie as Movie
    from atomvae.movie.read import read_movie as read_movie
    from atomvae.patches.cut import cut_patches as cut_patches
    from atomvae.patches.store import PatchStore as PatchStore
    from atomvae.run.folder import RunFolder as RunFolder
    from atomvae.run.pipeline import run_pipeline as run_pipeline
    from atomvae.run.report import report as report
    from atomvae.run.report import report_figures as report_figures
    from atomvae.viewer.layers import to_layers as to_layers


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'atomvae' has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if name == "zoo" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
