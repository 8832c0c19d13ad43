"""`headnode blades`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from blades.inventory import all_blades, select
from blades.setup import setup_files, to_tar
from config.load import atoms_of
from config.portage import Rendered, is_program
from headnode.commands.context import Settings, json_option
from headnode.console import say, show_json, table
from headnode.errors import ConfigError
from headnode.files import write_atomic


@click.group()
def blades() -> None:
    """Look at the blades, and at what each is given.

    Example: headnode blades list
    """


@blades.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the blades with class, ring and what the ring has.

    Example: headnode blades list --json
    """
    site = settings.site()
    rows = []
    for blade in all_blades(site.cluster):
        current = site.binhost(blade.class_name).ring(blade.ring).current()
        rows.append((blade, current.generation if current else None))
    if as_json:
        show_json(
            [
                {
                    "name": blade.name,
                    "class": blade.class_name,
                    "ring": blade.ring,
                    "due_generation": due,
                }
                for blade, due in rows
            ]
        )
        return
    table(
        ("blade", "class", "ring", "generation due"),
        ((blade.name, blade.class_name, blade.ring, due or "-") for blade, due in rows),
    )


@blades.command()
@click.argument("blade")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files below this folder.",
)
@click.option("--tar", "as_tar", is_flag=True, help="Write them as a tar to stdout.")
@json_option
@click.pass_obj
def config(
    settings: Settings, blade: str, output: Path | None, as_tar: bool, as_json: bool
) -> None:
    """Show the files that BLADE needs, or write them out.

    Example: headnode blades config blade01 --tar | ssh blade01 tar -x -C /
    """
    site = settings.site()
    chosen = select(site.cluster, blade)
    if len(chosen) != 1:
        raise ConfigError(f"{blade} names {len(chosen)} blades.", remedy="Name one.")
    rendered = setup_files(
        site.cluster, chosen[0], atoms_of(site.klass(chosen[0].class_name)), site.keyring()
    )
    if as_tar:
        sys.stdout.buffer.write(to_tar(rendered))
    elif output:
        write_below(output, rendered)
        say(f"Wrote {len(rendered.files)} files below {output}.")
    elif as_json:
        show_json({"files": rendered.files, "links": rendered.links})
    else:
        for path, text in rendered.files.items():
            say(f"# ---- {path}\n{text}")
        for path, target in rendered.links.items():
            say(f"# ---- {path} -> {target}")


def write_below(folder: Path, rendered: Rendered) -> None:
    """Write rendered files as they are to lie below a blade's root."""
    for path, text in rendered.files.items():
        mode = 0o755 if is_program(path) else 0o644
        write_atomic(folder / path.lstrip("/"), text, mode=mode)
    for path, target in rendered.links.items():
        link = folder / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
