"""What the HTTP server is given: small until it is needed, then the real thing."""

import subprocess
import sys
from pathlib import Path

from config.load import from_values, load
from config.template import render

HEAVY = "portage pydantic ClusterShell schedules mirror.pull_through"
SCRIPT = """
import sys
from pathlib import Path
from headnode.on_demand import fetcher
fetch = fetcher(sys.argv[1])
print([each for each in sys.argv[3].split() if each in sys.modules])
print(fetch(Path(sys.argv[2])))
print([each for each in sys.argv[3].split() if each not in sys.modules])
"""


def test_nothing_heavy_is_imported_before_the_first_file_is_asked_for(tmp_path: Path) -> None:
    cluster = from_values({"state": {"path": tmp_path / "state", "reserve_mib": 0}})
    asked = tmp_path / "state/mirror/distfiles/00/x.tgz"
    argv = [sys.executable, "-c", SCRIPT, cluster.model_dump_json(), str(asked), HEAVY]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    # Portage only reads Manifests, and no tree was synced that has any.
    assert done.stdout == "[]\nFalse\n['portage']\n"


def test_a_whole_configuration_survives_the_way_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(render())
    cluster = load(tmp_path / "cluster.toml")
    assert type(cluster).model_validate_json(cluster.model_dump_json()) == cluster
