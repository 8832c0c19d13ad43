"""What the HTTP server is given: small until it is needed, then the real thing."""

import subprocess
import sys
from pathlib import Path

HEAVY = "portage pydantic ClusterShell schedules mirror.pull_through"
SCRIPT = """
import sys
from pathlib import Path
from headnode.on_demand import fetcher
fetch = fetcher(Path(sys.argv[1]))
print([each for each in sys.argv[3].split() if each in sys.modules])
print(fetch(Path(sys.argv[2])))
print([each for each in sys.argv[3].split() if each not in sys.modules])
"""


def test_nothing_heavy_is_imported_before_the_first_file_is_asked_for(tmp_path: Path) -> None:
    config = tmp_path / "cluster.toml"
    config.write_text('[state]\npath = "state"\nreserve_mib = 0\n')
    asked = tmp_path / "state/mirror/distfiles/00/x.tgz"
    argv = [sys.executable, "-c", SCRIPT, str(config), str(asked), HEAVY]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    # Portage only reads Manifests, and no tree was synced that has any.
    assert done.stdout == "[]\nFalse\n['portage']\n"
