import json

import pytest
import yaml

from atomvae.errors import InputError
from atomvae.run.config import Pipeline, json_schema, load_pipeline
from atomvae.run.stages import STAGES
from atomvae.run.template import template
from atomvae.run.yaml_text import read_yaml, set_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),  # a truth value in YAML 1.1
        ("no", "no"),
        ("010", 10),  # eight in YAML 1.1
        ("12:30", "12:30"),  # 750 in YAML 1.1
        ("1e-3", 0.001),  # text in YAML 1.1
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("true", True),
        ("null", None),
        ("2026-11-21", "2026-11-21"),
        ("0x10", "0x10"),
        (".inf", float("inf")),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("''", ""),
    ],
)
def test_scalars_mean_what_people_mean(text, value):
    found = read_yaml(f"key: {text}", "x")["key"]
    assert found == value and type(found) is type(value)


def test_a_pipeline_survives_its_own_yaml():
    first = Pipeline(
        name="a", seed=5, movie=["m.tif", {"simulate": "graphene", "shape": [64, 64]}],
        detect={"lattice": "off", "threshold": 1e-3}, train={"seed": 9},
    )  # fmt: skip
    again = Pipeline.model_validate(read_yaml(first.to_yaml(), "x"))
    assert again == first
    assert again.train.seed == 9
    follows = Pipeline(movie="m.tif", seed=5)
    assert follows.train.seed == 5
    plain = read_yaml(follows.to_yaml(), "x") | {"seed": 6}
    assert Pipeline.model_validate(plain).train.seed == 6


def test_paths_are_seen_from_the_yaml_file(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "p.yaml"
    file.parent.mkdir()
    file.write_text("movie: [../a.tif, {path: '${SOMEWHERE}/b.tif', pixel_size_nm: 0.01}]")
    monkeypatch.setenv("SOMEWHERE", str(tmp_path / "data"))
    pipeline = load_pipeline(file)
    assert [m.path for m in pipeline.movie] == [
        str(tmp_path / "a.tif"), str(tmp_path / "data/b.tif"),
    ]  # fmt: skip
    assert pipeline.movie[1].pixel_size_nm == 0.01
    monkeypatch.chdir(tmp_path)
    given = load_pipeline(file, movies=["c.tif"])
    assert [m.path for m in given.movie] == [str(tmp_path / "c.tif")]


def test_overrides(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("movie: a.tif")
    pipeline = load_pipeline(
        file,
        [
            "detect.threshold=1e-3", "detect.lattice=off", "movie.0.pixel_size_nm=0.02",
            "train.weights=[{term: z, weight: 4}]", "name=b", "compute.slurm.queue=gpu",
        ],
    )  # fmt: skip
    assert (pipeline.detect.threshold, pipeline.detect.lattice) == (0.001, "off")
    assert pipeline.movie[0].pixel_size_nm == 0.02 and pipeline.name == "b"
    assert pipeline.train.weights[0].weight == 4 and pipeline.compute.slurm.queue == "gpu"
    plain = {"a": [1, 2]}
    set_value(plain, "a.1=7")
    assert plain == {"a": [1, 7]}


def test_the_template_is_a_pipeline_with_every_setting():
    text = template("gold", "gold.dm4")
    assert Pipeline.model_validate(read_yaml(text, "x")) == Pipeline(name="gold", movie="gold.dm4")
    lines = [line.removeprefix("# ") for line in text.splitlines()[4:] if not line.startswith("##")]
    everything = yaml.safe_load("\n".join(lines))  # all comments removed: all settings
    default = Pipeline(name="gold", movie="gold.dm4")
    assert Pipeline.model_validate(read_yaml("\n".join(lines), "x")) == default
    assert everything.keys() == Pipeline.model_fields.keys()
    for section in ("drift", "detect", "link", "patches", "model", "map", "compute"):
        assert (
            everything[section].keys()
            == Pipeline.model_fields[section].annotation.model_fields.keys()
        )


def test_every_setting_has_a_meaning_and_is_strict():
    def walk(schema):
        for name, definition in schema["$defs"].items():
            if definition.get("type") == "object":
                assert definition["additionalProperties"] is False, name
                for key, field in definition["properties"].items():
                    assert field.get("description"), f"{name}.{key} has no docstring"

    schema = json.loads(json_schema())
    walk(schema)
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())


def test_every_section_belongs_to_a_stage():
    """No setting is without effect on staleness, unless results do not depend on it."""
    pipeline = Pipeline(movie="m.tif")
    used = set().union(*(stage.settings(pipeline) for stage in STAGES))
    assert set(Pipeline.model_fields) - used == {"name", "compute"}


def test_unknown_keys_are_found_at_every_level():
    from pydantic import BaseModel

    def sections(model, path):
        yield model, path
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from sections(inner, [*path, name])

    found = list(sections(Pipeline, []))
    assert len(found) >= 10
    for _, path in found:
        plain = {"movie": "m.tif"}
        place = plain
        for step in path:
            place = place.setdefault(step, {})
        place["no_such_key"] = 1
        with pytest.raises(InputError, match=rf"unknown key '{'.'.join([*path, 'no_such_key'])}'"):
            from atomvae.run.yaml_text import validate

            validate(Pipeline, plain, "x")
