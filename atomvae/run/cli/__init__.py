"""The command line: parse, call one function, show; nothing heavy is imported at the door."""

import sys

import typer

from atomvae.errors import InputError
from atomvae.run.cli import data, doctor, report, runs, viewing

app = typer.Typer(
    name="atomvae",
    help="From a STEM movie to what its local structure is doing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
WORK, FILES = "Analysis", "Files and help"
app.command("run", rich_help_panel=WORK)(runs.run)
app.command("status", rich_help_panel=WORK)(runs.status)
app.command("view", rich_help_panel=WORK)(viewing.view)
app.command("report", rich_help_panel=WORK)(report.report)
app.command("export", rich_help_panel=WORK)(data.export)
for name, text in runs.STAGE_HELP.items():
    app.command(name, help=text, rich_help_panel="One stage of a run")(runs.stage_command(name))
app.command("info", rich_help_panel=FILES)(data.info)
app.command("simulate", rich_help_panel=FILES)(data.simulate)
app.command("init", rich_help_panel=FILES)(data.init)
app.command("schema", rich_help_panel=FILES)(data.schema)
app.command("doctor", rich_help_panel=FILES)(doctor.doctor)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process.

    Parameters
    ----------
    arguments : list of str, optional
        Default: those of the process.

    Notes
    -----
    Exit status 0 when all went well, 2 for what the user can mend (one sentence, no traceback),
    130 after an interruption.

    Examples
    --------
    >>> main(["info", "missing.tif"])
    Traceback (most recent call last):
    ...
    SystemExit: 2
    """
    try:
        app(arguments)
    except InputError as error:
        print(f"atomvae: {error}", file=sys.stderr)
        sys.exit(2)
