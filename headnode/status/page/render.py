"""The pages as HTML, from templates that escape whatever is put into them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import jinja2

from headnode.status.model import BladeDetail, GenerationDetail, Status
from headnode.status.page.rack import MARKS, rack
from headnode.status.page.timeline import timeline
from headnode.status.page.words import URGENCY, ago, clock, duration

HERE = Path(__file__).parent
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
ASSETS = "/status/assets/"


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"ago": ago, "clock": clock, "duration": duration}
    made.globals |= {"asset": asset_url, "marks": MARKS, "urgency": URGENCY}
    return made


@cache
def assets() -> dict[str, tuple[bytes, str]]:
    """The style sheet and the script by URL, which has a digest of its content: content, type."""
    found = {}
    for path in sorted((HERE / "assets").iterdir()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        found[f"{ASSETS}{path.stem}.{digest}{path.suffix}"] = (content, KINDS[path.suffix])
    return found


@cache
def asset_url(name: str) -> str:
    """The URL of an asset."""
    stem, _, suffix = name.rpartition(".")
    return next(
        url for url in assets() if url.startswith(f"{ASSETS}{stem}.") and url.endswith(suffix)
    )


def front_page(status: Status, digest: str) -> str:
    """The status page; `digest` tells the script whether it is still current."""
    template = _templates().get_template("front.html")
    newest = {each.class_name: each for each in reversed(status.generations)}
    return template.render(
        status=status,
        now=status.now,
        digest=digest,
        rack=rack(status),
        night=timeline(status),
        newests=list(newest.values()),
    )


def blade_page(status: Status, detail: BladeDetail, digest: str) -> str:
    """A blade's page."""
    template = _templates().get_template("blade.html")
    return template.render(status=status, now=status.now, digest=digest, it=detail)


def generation_page(status: Status, detail: GenerationDetail, digest: str) -> str:
    """A generation's page."""
    template = _templates().get_template("generation.html")
    return template.render(status=status, now=status.now, digest=digest, it=detail)


def missing_page(status: Status, what: str, digest: str) -> str:
    """The page for what is not there."""
    template = _templates().get_template("missing.html")
    return template.render(status=status, now=status.now, digest=digest, what=what)
