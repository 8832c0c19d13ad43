"""The command line: `headnode <noun> <verb>`. It reads options, calls one function, shows a result.

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 partly failed (some blades).
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from headnode.commands import (
    binhost,
    blades,
    build,
    distcc,
    doctor,
    generations,
    init,
    keys,
    lab,
    mirror,
    rings,
    rollout,
    serve,
    status,
    takeover,
)
from headnode.commands.context import Settings
from headnode.console import err
from headnode.errors import ExitCode, HeadnodeError

INTERRUPTED = 130  # as a shell counts a command ended by SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
    context.obj = Settings(config_path=config_path)


for command in (
    *(init.init, mirror.mirror, build.build, rings.publish, rings.promote, rings.rollback),
    *(generations.generations, rollout.rollout, blades.blades, distcc.distcc, keys.keys),
    *(serve.serve, status.status, lab.lab),
    *(binhost.binhost, takeover.take_over, doctor.doctor),
):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are said on stderr."""
    try:
        code = cli.main(args=list(arguments), prog_name="headnode", standalone_mode=False)
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
    err.print(f"headnode: {text}", style="red" if err.is_terminal else None, markup=False)


def main() -> None:
    """Entry point of the `headnode` program."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
