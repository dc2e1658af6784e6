"""mdmw-node's workers, which are greenlets and have no privileges, log each request of each guest."""

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from daemon import site
from servers.client import Connection
from servers.launch import Listener
from servers.namespace import Namespace, temporary
from servers.nova import Nova
from servers.pipelines import ADA, ADDRESSES, BEN, BLUE, CYD, METADATA_ADDRESS, PORT, Guest, write
from servers.running import connected

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip for namespaces"
)

EACH = 10
LISTENER = Listener(address=METADATA_ADDRESS, port=PORT)
_LINE = re.compile(
    r"\S+Z (?P<id>req-\S+) (?P<address>\S+) network/(?P<network>\S+) (?P<instance>\S+)"
    r' GET "(?P<path>\S+)" 200 .*'
)
_LOGGING = "\n[filter:access-log]\nuse = egg:mdmw#access-log\n"


def asking(namespace: Namespace, guest: Guest) -> dict[str, tuple[Guest, list[str]]]:
    """What a guest gets on one kept connection: path -> (guest, ids)."""
    with Connection(connected(LISTENER, namespace, guest.address)) as connection:
        got = {}
        for turn in range(EACH):
            path = f"/{guest.address}/{turn}"
            connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got[path] = (guest, connection.reply().all("X-Openstack-Request-Id"))
        return got


def test_every_request_has_its_line(open_path: Path) -> None:
    """Guests at the same time on kept connections; the daemon ends at once, and says them all."""
    with Nova(open_path / "nova") as nova, temporary(ADDRESSES) as namespace, site() as made:
        nova.path.chmod(0o666)
        text = write(open_path, nova.path).read_text()
        text = text.replace("listeners_file = %(here)s/listeners.json\n", "")
        text = text.replace("%(here)s", str(open_path))
        made.ini.write_text(text.replace("pipeline = ", "pipeline = access-log ") + _LOGGING)
        keeper = made.started("--pipeline", "combined")
        made.want([namespace.name, [METADATA_ADDRESS, PORT, None], ["network", BLUE]])
        with ThreadPoolExecutor(3) as threads:
            parts = list(threads.map(lambda guest: asking(namespace, guest), (ADA, BEN, CYD)))
        keeper.terminate()
        assert keeper.wait(10) == 0
        lines = [match for line in made.log.splitlines() if (match := _LINE.fullmatch(line))]
    got = {path: one for part in parts for path, one in part.items()}
    assert sorted(line["path"] for line in lines) == sorted(got)
    for line in lines:
        guest, ids = got[line["path"]]
        assert (line["address"], line["network"], line["instance"]) == (guest.address, BLUE, guest.instance)
        assert [line["id"]] == ids
    assert len({line["id"] for line in lines}) == 3 * EACH
