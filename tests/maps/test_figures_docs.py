"""The page of the models: its code runs as printed, and its table knows the whole family."""

import inspect
import re

from atomvae.model import zoo


def page(repository):
    return (repository / "docs" / "models.md").read_text()


def test_the_code_of_the_page_runs(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page(repository), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/models.md", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {"manifold.png", "losses.png"}
    found = names["latents"].assign(suit=names["data"].truth["suit"])
    counts = found.groupby(["class", "suit"]).size().unstack(fill_value=0).to_numpy()
    assert counts.max(1).sum() > 0.9 * counts.sum()  # the classes are the suits


def test_the_table_names_the_family(repository):
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page(repository), re.MULTILINE)
    made = {
        name: function
        for name, function in inspect.getmembers(zoo, inspect.isfunction)
        if function.__module__ == zoo.__name__
        and {"latent_dim", "seed"} <= inspect.signature(function).parameters.keys()
    }
    assert [name for name, _ in rows] == sorted(made, key=list(vars(zoo)).index)
    for name, factors in rows:
        more = (
            {"given": zoo.Condition(2, "c")}
            if "given" in inspect.signature(made[name]).parameters
            else {}
        )
        model = made[name]((8, 8), **more) if name != "ved" else zoo.ved((8, 8), (1, 5))
        assert [f.split()[0] for f in factors.split(", ")] == [
            type(f).__name__ for f in model.latent
        ]
