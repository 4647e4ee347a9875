"""The command `tandem`: a table of subcommands, each imported only when it is called, and how errors are told."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from tandem.api.problems import Problem, Refused

EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
MAX_LINES = 100
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


@dataclass(frozen=True, slots=True)
class Entry:
    """A subcommand: the attribute `command` of `module`."""

    module: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "render": Entry("tandem.cli.render", "Print the objects that a ModelDeployment is made of."),
    "explain": Entry("tandem.cli.explain", "Show each engine parameter with the source of its value."),
    "validate": Entry("tandem.cli.validate", "Check a file; exit 1 with path and reason for every problem."),
    "diff": Entry("tandem.cli.diff", "Compare a file with what the cluster holds; exit 1 on a difference."),
    "blueprint": Entry("tandem.cli.blueprint", "Show what a model is, and what it needs, before it is deployed."),
    "fit": Entry(
        "tandem.cli.fit", "Say whether a deployment fits into memory, with the numbers; exit 1 when it does not."
    ),
    "generator": Entry("tandem.cli.generator", "Flags and files of a backend from one input file."),
    "schema": Entry("tandem.cli.schema", "List every parameter with type, bounds, default and flag per backend."),
    "crds": Entry("tandem.cli.crds", "Print the CustomResourceDefinitions."),
    "local": Entry("tandem.cli.local", "Run a deployment as processes on this machine."),
    "operator": Entry("tandem.cli.operator", "Run the operator."),
    "router": Entry("tandem.cli.router", "Run the router of one deployment."),
    "probe": Entry("tandem.cli.probe", "Read a model's facts in a pod, for the operator."),
}


class LazyGroup(click.Group):
    """A group that knows names and summaries of its commands without importing them."""

    def __init__(self, entries: Mapping[str, Entry], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order of the table."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command; a name that is none is refused with the nearest one."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            if cmd_name.startswith("-"):
                return None
            raise click.NoSuchCommand(cmd_name, possibilities=self._entries, ctx=ctx)
        command: click.Command = import_module(entry.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Lists the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])


@click.group(
    "tandem",
    cls=LazyGroup,
    entries=COMMANDS,
    epilog="Example: tandem validate -f deployment.yaml && tandem local up -f deployment.yaml",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="tandem-operator")
def root() -> None:
    """LLM deployments on Kubernetes, aggregated or disaggregated."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    if os.getpid() == 1:
        # The kernel drops what a container's first process has no handler for: a pod that is deleted while it starts
        # would live on for its whole grace period.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_TERMINATED))
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    Problems go to stderr: one line each, or with `-o json` as {"problems": [{path, value, reason, fix}]}.
    """
    as_json = _asks_for_json(arguments)
    try:
        outcome = root.main(args=list(arguments), prog_name="tandem", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        if as_json:
            tell([_usage_problem(error)], as_json=True)
        else:
            error.show()
        return error.exit_code
    except Refused as refused:
        tell(refused.problems, as_json=as_json)
        return EXIT_REFUSED
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_REFUSED
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS or error.filename is not None:
            raise
        _drop_output()
        reason = f"it cannot be written: {error.strerror}"
        tell([Problem("standard output", "", reason, "Free space, or write elsewhere.")], as_json=as_json)
        return EXIT_REFUSED
    return outcome if isinstance(outcome, int) else 0


def tell(problems: Sequence[Problem], *, as_json: bool) -> None:
    """Writes the problems to stderr; as lines, the first hundred."""
    if as_json:
        click.echo(json.dumps({"problems": [problem.as_dict() for problem in problems]}, indent=2), err=True)
        return
    for problem in problems[:MAX_LINES]:
        click.echo(f"error: {' '.join(str(problem).splitlines())}", err=True)
    if len(problems) > MAX_LINES:
        click.echo(f"error: and {len(problems) - MAX_LINES} more", err=True)


def _usage_problem(error: click.ClickException) -> Problem:
    """What click refuses, at the option that is meant."""
    option, reason = "arguments", error.format_message()
    if isinstance(error, click.NoSuchOption):
        option = error.option_name
    elif isinstance(error, click.BadParameter) and error.param is not None:
        option, reason = max(error.param.opts, key=len), error.message or reason
    context = getattr(error, "ctx", None)
    return Problem(option, "", reason, f"See {context.command_path if context else 'tandem'} --help.")


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `-o json` is among the arguments, which are not parsed yet: they may be what is wrong."""
    pairs = itertools.pairwise(arguments)
    return bool({"-ojson", "--output=json"}.intersection(arguments)) or any(
        option in ("-o", "--output") and value == "json" for option, value in pairs
    )


def _drop_output() -> None:
    """Stdout can take no more; the interpreter must not try to flush into it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
