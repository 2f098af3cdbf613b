"""The report of a run: one HTML file that says what was done and shows what came out."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from atomvae.errors import InputError
from atomvae.run.atomic import replacing, write_text
from atomvae.run.folder import RunFolder
from atomvae.run.report_data import Findings
from atomvae.run.report_page import Block, Note, Picture, Section, write_page
from atomvae.run.report_sections import PARTS, Part


def report(
    run: str | os.PathLike[str] | RunFolder,
    out: str | os.PathLike[str] | None = None,
    *,
    pictures: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a run: one HTML file with every figure inside it.

    What the run lacks, because it is not done, damaged or moved away, is said in a sentence; the
    rest is shown. The file needs no network, has no script, and can be sent to anybody.

    Parameters
    ----------
    run : path-like or RunFolder
        ``NAME.atomvae.zarr``, finished or not.
    out : path-like, optional
        The HTML file. Default: ``.atomvae/report.html`` in the run folder.
    pictures : path-like, optional
        Folder in which every figure is written as PNG, too. Default: ``.atomvae/pictures`` in the
        run folder if ``out`` is not given, else none.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    InputError
        If there is no run folder, or the file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = RunFolder.create(Path(tempfile.mkdtemp()) / "gold.atomvae.zarr")
    >>> "Not done yet: import, drift, detect" in report(folder).read_text()
    True
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    beside = folder.private / "pictures" if pictures is None and out is None else pictures
    file = folder.private / "report.html" if out is None else Path(out).expanduser().absolute()
    if file.is_dir():
        raise InputError(f"{file} is a folder; name an HTML file, e.g. {file / 'report.html'}")
    findings = Findings(folder)
    html, drawn = write_page(folder.name, findings.lead, findings.facts, find_sections(findings))
    try:
        write_text(file, html)
        for name, png in drawn.items() if beside is not None else ():
            with replacing(Path(beside or "").expanduser() / f"{name}.png") as temporary:
                temporary.write_bytes(png)
    except OSError as error:
        raise InputError(
            f"the report can't be written to {error.filename or file} ({error.strerror}); name "
            "another place for it, e.g. with --out"
        ) from error
    return file


def report_figures(run: str | os.PathLike[str] | RunFolder) -> dict[str, Figure]:
    """Draw the figures of the report of a run, to be changed and saved as you like.

    Parameters
    ----------
    run : path-like or RunFolder
        ``NAME.atomvae.zarr``, finished or not.

    Returns
    -------
    dict of str to matplotlib Figure
        By name, as far as the run has come.

    Examples
    --------
    >>> import tempfile
    >>> report_figures(RunFolder.create(Path(tempfile.mkdtemp()) / "gold.atomvae.zarr"))
    {}
    """
    findings = Findings(run if isinstance(run, RunFolder) else RunFolder(run))
    blocks = [block for section in find_sections(findings) for block in section.blocks]
    return {block.name: block.figure for block in blocks if isinstance(block, Picture)}


def find_sections(findings: Findings) -> list[Section]:
    """Put together what a report shows, before anything is drawn.

    Parameters
    ----------
    findings : Findings
        Of a run.

    Returns
    -------
    list of Section
        In their order; a part that lacks something is a sentence that says so.
    """
    return [Section(title, _blocks(parts, findings)) for title, parts in PARTS]


def _blocks(parts: tuple[Part, ...], findings: Findings) -> tuple[Block, ...]:
    """What the parts of a section yield; a sentence for what one of them lacks."""
    blocks: list[Block] = []
    for part in parts:
        try:
            blocks.extend(part(findings))
        except InputError as error:
            blocks.append(Note(f"Not shown: {error}."))
        except Exception as error:  # whatever a damaged run makes of its libraries
            blocks.append(Note(f"Not shown: {type(error).__name__}, {error}."))
    return tuple(b for k, b in enumerate(blocks) if not isinstance(b, Note) or b not in blocks[:k])
