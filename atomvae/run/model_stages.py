"""The stages that know torch: train, encode, map."""

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from atomvae.errors import InputError
from atomvae.run.atomic import replacing
from atomvae.run.config import ModelConfig
from atomvae.run.labels import label_numbers, read_labels, with_labels
from atomvae.run.runner import Figures, Work
from atomvae.run.tables import open_group, write_table

if TYPE_CHECKING:
    from atomvae.model.model import Model
    from atomvae.run.folder import RunFolder

MANIFOLD_SIDE = 12  # pictures along each side of a manifold


def variants() -> list[str]:
    """Return the names that ``model.variant`` takes: models of patches alone.

    Conditional models and encoder-decoders need more than the patches of a run, so they are for
    Python.

    Examples
    --------
    >>> "rvae" in variants()
    True
    """
    from atomvae.model import zoo

    return sorted(
        name
        for name, item in vars(zoo).items()
        if inspect.isfunction(item)
        and item.__module__ == zoo.__name__
        and _needs_only_shape(inspect.signature(item))
    )


def _needs_only_shape(signature: inspect.Signature) -> bool:
    """Whether a function makes a model of the shape and a number of latents alone."""
    needed = [p.name for p in signature.parameters.values() if p.default is p.empty]
    return needed == ["shape"] and "latent_dim" in signature.parameters


def build_model(config: ModelConfig, shape: tuple[int, ...], seed: int) -> "Model":
    """Make the untrained model that the settings name.

    Parameters
    ----------
    config : ModelConfig
        Variant and sizes.
    shape : tuple of int
        (channels, height, width) of a patch.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    Model
        On the CPU.

    Raises
    ------
    InputError
        An unknown variant, or a setting that the variant does not have.

    Examples
    --------
    >>> build_model(ModelConfig(variant="jvae", classes=4), (1, 8, 8), seed=0).n_branches
    4
    """
    from atomvae.model import zoo

    check_variant(config)
    maker = getattr(zoo, config.variant)
    given = {name: getattr(config, name) for name in ("latent_dim", "classes")}
    chosen = {name: value for name, value in given.items() if value is not None}
    model: Model = maker(shape, **chosen, seed=seed)
    return model


def check_variant(config: ModelConfig) -> None:
    """Raise InputError unless the variant exists and has the settings that were given."""
    from atomvae.model import zoo

    if config.variant not in variants():
        raise InputError(
            f"model.variant is {config.variant!r}, expected one of {', '.join(variants())}"
        )
    known = inspect.signature(getattr(zoo, config.variant)).parameters
    if config.labels and "classes" not in known:
        raise InputError(
            f"{config.variant} has no classes to be known; set model.variant to ssrvae or ssvae, "
            "or remove model.labels"
        )
    for name in ("latent_dim", "classes"):
        if getattr(config, name) is not None and name not in known:
            raise InputError(f"{config.variant} has no {name}; remove model.{name}")


def train_stage(work: Work) -> Figures:
    """Train the model on all patches; a checkpoint is continued."""
    from atomvae.latent import Code
    from atomvae.model.decode import manifold
    from atomvae.model.encode import encode
    from atomvae.model.files import save_model
    from atomvae.model.train import train

    folder, config = work.folder, work.pipeline.model
    patches = folder.patches()
    known: dict[str, Any] | None = None
    names: list[str] = []
    if config.labels:
        numbers, names = label_numbers(read_labels(folder), folder.atoms(), patches.atom_id[:])
        config, known = with_labels(config, names), {"class": numbers}
    model = build_model(config, patches.layout.shape, work.pipeline.seed)
    checkpoints = folder.private / "checkpoints"
    checkpoint = checkpoints / f"{config.label}-{work.key[:16]}.safetensors"
    for other in checkpoints.glob(f"{config.label}-*"):
        if other.name != checkpoint.name:
            other.unlink()

    def told(state: dict[str, float]) -> None:
        work.progress(state["step"], state["steps"])
        if work.watch is not None:
            work.watch(model, state)

    history = train(
        model, patches, work.pipeline.train, known=known, checkpoint=checkpoint, progress=told
    )
    with replacing(folder.private / "models" / config.label, folder.scratch) as temporary:
        save_model(model, temporary)
    with replacing(folder.path / "models" / config.label, folder.scratch) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        group.attrs.update({"key": work.key, "model": config.label, "class_names": names})
        write_table(temporary / "history", history, {"model": config.label})
        if any(f.name == "z" for f in model.latent):
            codes = any(type(f) is Code for f in model.latent)  # they have no prior
            latents = encode(model, patches, device=work.pipeline.train.device) if codes else None
            images = manifold(model, MANIFOLD_SIDE, latents=latents)
            group.create_array(
                "manifold", data=images, dimension_names=_manifold_names(images.ndim)
            )
    checkpoint.unlink(missing_ok=True)
    last = history.iloc[-1]
    figures = {name: round(float(last[name]), 4) for name in ("loss", "held_out", "noise")}
    return {
        "patches": len(patches),
        "epochs": len(history),
        **figures,
        "summary": f"{config.label} on {len(patches)} patches, {len(history)} epochs, "
        f"loss {figures['loss']:.4g}, held-out bound {figures['held_out']:.4g} nats per patch",
    }


def _manifold_names(ndim: int) -> tuple[str, ...]:
    """Dimension names of a grid of pictures."""
    return ("z_0", "z_1", *(("channel",) if ndim == 5 else ()), "patch_y", "patch_x")


def encode_stage(work: Work) -> Figures:
    """Encode every patch with the trained model."""
    from atomvae.model.encode import encode

    folder, label = work.folder, work.pipeline.model.label
    latents = encode(folder.model(label), folder.patches(), device=work.pipeline.train.device)
    write_table(folder.path / "latents" / label, latents, {"model": label}, scratch=folder.scratch)
    error = float(latents["reconstruction_error"].median())
    names = [str(name) for name in latents]
    shown = [name for name in names if name != "atom_id" and not name.endswith("_sd")]
    return {
        "atoms": len(latents),
        "columns": names,
        "reconstruction_error": round(error, 4),
        "summary": f"{len(latents)} atoms: {', '.join(shown[:6])}; median reconstruction error "
        f"{error:.3f}",
    }


def map_stage(work: Work) -> Figures:
    """Put the latents on the lattice: the joined table."""
    from atomvae.maps.latents import map_latents
    from atomvae.maps.symmetry import model_symmetry

    folder, label = work.folder, work.pipeline.model.label
    atoms, latents = folder.atoms(), folder.latents(label)
    order, confidence = work.pipeline.map.symmetry, 1.0
    if order is None and "angle" in latents:
        measured = model_symmetry(folder.model(label), latents)
        order, confidence = measured.n, measured.confidence
    table = map_latents(atoms, latents, symmetry=order)
    if names := _class_names(folder, label):
        number = table["class"].to_numpy()
        free = [f"class {i}" for i in range(len(names), number.max(initial=0) + 1)]
        table["class_name"] = np.array([*names, *free], object)[number]
    folder.write_parquet("atoms", table)
    figures: dict[str, Any] = {"rows": len(table), "columns": list(table.columns)}
    line = f"{len(table)} atoms, {table.shape[1]} columns"
    if order is not None:
        figures |= {"symmetry": int(order), "confidence": round(float(confidence), 4)}
        line += f", {order}-fold motif" + ("" if np.isnan(confidence) else f" ({confidence:.2f})")
    return figures | {"summary": line}


def _class_names(folder: "RunFolder", label: str) -> list[str]:
    """Names of the classes of a model that was trained with labels, else none."""
    path = folder.path / "models" / label
    return list(open_group(path).attrs.get("class_names", [])) if path.exists() else []
