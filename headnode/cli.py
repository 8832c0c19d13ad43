"""The command line: `headnode <noun> <verb>`. It reads options, calls one function, shows a result.

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 partly failed (some blades).
"""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from keyword import iskeyword
from pathlib import Path

import click

from headnode.commands.context import Settings
from headnode.console import complain
from headnode.errors import ExitCode, HeadnodeError

# Importing makes objects that stay: to look for garbage among them every 700 (Python's default)
# takes a tenth of the time of a short command.
MANY_OBJECTS = 50_000
INTERRUPTED = 130  # as a shell counts a command ended by SIGINT

# Each command and the module of headnode.commands that has it, under the command's name.
COMMANDS = {
    "binhost": "binhost",
    "blades": "blades",
    "build": "build",
    "distcc": "distcc",
    "doctor": "doctor",
    "generations": "generations",
    "import": "takeover",
    "init": "init",
    "kernel": "kernel",
    "keys": "keys",
    "lab": "lab",
    "mirror": "mirror",
    "patch": "patch",
    "promote": "rings",
    "publish": "rings",
    "rollback": "rings",
    "rollout": "rollout",
    "schedule": "schedule",
    "security": "security",
    "serve": "serve",
    "status": "status",
}


class Commands(click.Group):
    """Commands whose modules are imported when they are used: all of them take 0.2 s."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"headnode.commands.{COMMANDS[cmd_name]}")
        command = getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 (the table above is wrong)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "config_path",
    envvar="HEADNODE_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file  [default: ./cluster.toml, then /etc/headnode/cluster.toml]",
)
@click.option("--verbose", "-v", is_flag=True, help="Say more about what is done.")
@click.version_option(package_name="headnode")
@click.pass_context
def cli(context: click.Context, config_path: Path | None, verbose: bool) -> None:
    """Mirror once, build once, and have every blade of a Gentoo cluster pull it.

    Example: headnode mirror sync && headnode build && headnode publish && headnode rollout run
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    context.obj = replace(context.obj or Settings(), config_path=config_path)


def run(arguments: Sequence[str], settings: Settings | None = None) -> int:
    """Run one command line and return its exit code; errors are said on stderr."""
    try:
        code = cli.main(
            args=list(arguments), prog_name="headnode", standalone_mode=False, obj=settings
        )
        return int(code or ExitCode.OK)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        say_error("stopped")
        return INTERRUPTED
    except HeadnodeError as error:
        say_error(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        say_error(
            f"{error.filename or 'a file of the state folder'}: {error.strerror}. "
            "What was served still is; put that right and run the command again."
        )
        return ExitCode.FAILED


def say_error(text: str) -> None:
    """Print an error the way all of them look."""
    complain(f"headnode: {text}")


def main() -> None:
    """Entry point of the `headnode` program."""
    gc.set_threshold(MANY_OBJECTS)
    code = run(sys.argv[1:])
    gc.freeze()  # the end looks for garbage, too, among all that was imported
    sys.exit(code)


if __name__ == "__main__":
    main()
