"""The command line: `autoprune COMMAND`. Errors become exit codes here, and only here."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
from typing import Annotated

import typer

from autoprune import __version__
from autoprune.cli import devices, doctor, dynamic, front, layers, mask, methods, pick, profile, report, search, spaces
from autoprune.cli.output import error, note
from autoprune.errors import AutopruneError, did_you_mean

__all__ = ["app", "main"]

app = typer.Typer(
    name="autoprune", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Find pruned versions of a PyTorch model that are fast on a device.\n\n"
         "autoprune search --device raspberrypi --budget 20ms   (runs the built-in example)\n\n"
         "Exit codes: 0 done, 1 internal error, 2 wrong usage or settings, 3 nothing meets the budget, 4 device "
         "unreachable or too noisy, 5 the model cannot be exported, pruned or run, 130 interrupted.")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"autoprune {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                help="Print the version and exit.")] = False) -> None:
    pass


app.command("search")(search.search)
app.command("front")(front.front)
app.command("pick")(pick.pick)
app.command("report")(report.report)
app.command("layers")(layers.layers)
app.command("profile")(profile.profile)
app.command("mask")(mask.mask)
app.command("ticket")(mask.ticket)
app.command("dynamic")(dynamic.dynamic)
app.add_typer(devices.app, name="devices")
app.add_typer(spaces.app, name="spaces")
app.add_typer(methods.app, name="methods")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point: run a command and exit with its code."""
    # Threads that wait by spinning take the core from the one they wait for: with one other busy process on two cores a
    # training step took 4.2 s instead of 1.0 s. libgomp reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stdout is None:  # closed: what is done is done all the same
        sys.stdout = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a locale that lacks a character
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    command = typer.main.get_command(app)
    names = list(getattr(command, "commands", {}))
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        hint = did_you_mean(arguments[0], names)
        error(f"there is no command {arguments[0]!r}\n  allowed: {hint}\n  fix:     autoprune --help")
        return 2
    try:
        code = command.main(args=arguments, prog_name="autoprune", standalone_mode=False)
    except AutopruneError as problem:
        error(str(problem))
        return problem.exit_code
    except (typer.Abort, KeyboardInterrupt):  # the option parser turns the second into the first
        note("interrupted; the same command resumes")
        return 130
    except SystemExit as problem:
        error(f"code of yours ended the process: exit({problem.code})\n  fix:     raise an exception there instead")
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as problem:
        if problem.errno != errno.ENOSPC:
            return _unexpected(problem, arguments)
        error(f"the result cannot be written: {problem.strerror}\n  fix:     free some space where the output goes")
        return 1
    except Exception as problem:
        return _unexpected(problem, arguments)
    return int(code) if isinstance(code, int) else 0


def _unexpected(problem: Exception, arguments: list[str]) -> int:
    """Usage errors of the option parser are the user's; anything else is ours."""
    show = getattr(problem, "format_message", None)
    if show is not None:
        context = getattr(problem, "ctx", None)
        path = context.command_path if context is not None else "autoprune"
        error(f"{show()}\n  given:   {shlex.join(['autoprune', *arguments])}\n  fix:     {path} --help")
        return int(getattr(problem, "exit_code", 2))
    if os.environ.get("AUTOPRUNE_DEBUG"):
        raise problem
    error(f"internal error: {type(problem).__name__}: {problem}\n  fix:     run again with AUTOPRUNE_DEBUG=1 for the "
          "traceback, and report it")
    return 1
