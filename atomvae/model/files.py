"""Models on disk: model.yaml says what it is, weights.safetensors holds the numbers."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from atomvae import latent
from atomvae.errors import InputError
from atomvae.latent import Factor
from atomvae.model import decoders, likelihood, networks
from atomvae.model.checkpoint import load_tensors, save_tensors
from atomvae.model.model import Model
from atomvae.model.seeding import seeded

VERSION = 2
FACTORS = {
    kind.__name__: kind
    for kind in (
        latent.Angle, latent.Categorical, latent.Code, latent.Condition, latent.Gaussian,
        latent.Rotation, latent.Scale, latent.Shear, latent.Shift,
    )
}  # fmt: skip
ENCODERS = {kind.__name__: kind for kind in (networks.Encoder, networks.ConvEncoder)}
DECODERS = {
    kind.__name__: kind
    for kind in (decoders.CoordinateDecoder, decoders.ImageDecoder, decoders.ConvDecoder)
}
LIKELIHOODS = {
    kind.__name__: kind
    for kind in (likelihood.GaussianNoise, likelihood.Bernoulli, likelihood.Poisson)
}


def describe(model: Model) -> dict[str, Any]:
    """Say what a model is made of, in plain numbers and names.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> describe(zoo.vae((8, 8)))["latent"]
    [{'kind': 'Gaussian', 'size': 2, 'name': 'z', 'sigma': 1.0}]
    """
    return {
        "version": VERSION,
        "shape": list(model.shape),
        "target": list(model.target_shape),
        "latent": [{"kind": type(f).__name__, **asdict(f)} for f in model.latent],  # type: ignore[call-overload]
        **{
            part: {"kind": type(getattr(model, part)).__name__, **getattr(model, part).settings}
            for part in ("encoder", "decoder", "likelihood")
        },
    }


def build(description: dict[str, Any]) -> Model:
    """Make an untrained model from its description.

    Raises
    ------
    InputError
        If a part is unknown or has unknown settings.

    Examples
    --------
    >>> from atomvae.model import zoo
    >>> build(describe(zoo.jrvae((8, 8)))).n_branches
    24
    """
    found = description.get("version") if isinstance(description, dict) else None
    if found != VERSION:
        raise InputError(f"model description has version {found!r}, expected {VERSION}")
    try:
        shape = networks.Shape.__origin__(int(n) for n in description["shape"])  # type: ignore[attr-defined]
        target = networks.Shape.__origin__(int(n) for n in description["target"])  # type: ignore[attr-defined]
        factors: list[Factor] = [_make(FACTORS, "factor", entry) for entry in description["latent"]]
        content = sum(f.size for f in factors if not f.is_pose)
        with seeded(torch.device("cpu"), 0):
            return Model(
                factors,
                _make(ENCODERS, "encoder", description["encoder"], shape=shape),
                _make(DECODERS, "decoder", description["decoder"], shape=target, content=content),
                _make(LIKELIHOODS, "likelihood", description["likelihood"], channels=target[0]),
            )
    except (KeyError, AttributeError) as error:
        raise InputError(f"model description lacks {error}") from error


def _make(kinds: dict[str, Any], part: str, entry: dict[str, Any], **given: Any) -> Any:
    """Call one of the known kinds with the settings of an entry."""
    settings = dict(entry)
    kind = settings.pop("kind", None)
    if kind not in kinds:
        raise InputError(f"{part} is of kind {kind!r}, expected one of {sorted(kinds)}")
    try:
        return kinds[kind](**given, **settings)
    except TypeError as error:
        raise InputError(f"{part} {kind} can't be made of {settings}: {error}") from error


def save_model(model: Model, folder: str | Path) -> None:
    """Write model.yaml and weights.safetensors into a folder, which is made if needed.

    Parameters
    ----------
    model
        Trained or not; factors, networks, weights and normalisation are kept.
    folder
        Where to.

    Examples
    --------
    >>> import tempfile
    >>> from atomvae.model import zoo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(zoo.vae((8, 8)), folder)
    ...     sorted(os.listdir(folder))
    ['model.yaml', 'weights.safetensors']
    """
    folder = Path(folder)
    description = describe(model)
    save_tensors(dict(model.state_dict()), folder / "weights.safetensors", description)
    part = folder / "model.yaml.part"
    part.write_text(yaml.safe_dump(description, sort_keys=False))
    os.replace(part, folder / "model.yaml")


def load_model(folder: str | Path) -> Model:
    """Read a model that `save_model` wrote; nothing in the files is executed.

    Parameters
    ----------
    folder
        With model.yaml and weights.safetensors.

    Returns
    -------
    Model
        On the CPU, ready to encode.

    Raises
    ------
    InputError
        If a file is missing or damaged, or says something unknown.

    Examples
    --------
    >>> load_model("nowhere")
    Traceback (most recent call last):
    ...
    atomvae.errors.InputError: nowhere has no model.yaml; give the folder of a saved model
    """
    folder = Path(folder)
    if not (folder / "model.yaml").is_file():
        raise InputError(f"{folder} has no model.yaml; give the folder of a saved model")
    try:
        description = yaml.safe_load((folder / "model.yaml").read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{folder / 'model.yaml'} is not plain YAML: {error}") from error
    model = build(description)
    tensors, _ = load_tensors(folder / "weights.safetensors")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"weights in {folder} don't fit its model.yaml: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval()
