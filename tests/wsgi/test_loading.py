"""Loading a pipeline: one line for everything that can be wrong with a file, and filters of others."""

import contextlib
import gc
import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from guest import call
from peers import silent
from shipped import BLUE, LISTENER, OBSERVERS, SECRET, edit, install

from mdmw.errors import ConfigError
from mdmw.wsgi import pipelines
from mdmw.wsgi.pipelines import load, load_or_exit, names, stages

USE = "use = egg:mdmw#source-identify\n# In this mode"
SIGN = "[filter:sign]\nuse = egg:mdmw#hmac-sign"
NOVA = "nova_metadata_host = unix"
IDENTIFY = "mode = listener\nlisteners_file = %(here)s/listeners.json"


@pytest.fixture
def ini(tmp_path):
    return install(tmp_path)


def refusal(path, pipeline="combined"):
    """The one line."""
    with pytest.raises(ConfigError) as error:
        load(pipeline, str(path))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert SECRET not in text
    assert "hunter2" not in text
    return text


BAD = {
    "unknown section": (
        [
            (
                "identify-guest resolve sign to-nova",
                "identify-guest nothing sign to-nova",
            )
        ],
        ["nothing"],
    ),
    "unknown option": (
        [(IDENTIFY, f"{IDENTIFY}\ncolour = blue")],
        ["[filter:identify-guest]", "'colour'", "mode"],
    ),
    "unknown value": (
        [("mode = listener", "mode = guess")],
        ["[filter:identify-guest]", "'mode'", "'guess'", "relay"],
    ),
    "unknown entry point": ([(USE, "use = egg:mdmw#source-guess\n#")], ["source-guess"]),
    "unknown distribution": ([(USE, "use = egg:nothing-of-that-name#x\n#")], ["nothing-of-that-name"]),
    "unknown module": (
        [(f"{USE}", "paste.filter_factory = nothing.of.that.name:factory\n#")],
        ["nothing"],
    ),
    "unknown attribute": (
        [(f"{USE}", "paste.filter_factory = mdmw.filters.source_identify:nothing\n#")],
        ["nothing"],
    ),
    "missing secret": (
        [
            (
                f"{SIGN}\nmetadata_proxy_shared_secret_file = %(here)s/shared-secret",
                SIGN,
            )
        ],
        ["[filter:sign]", "'metadata_proxy_shared_secret'", "required"],
    ),
    "unreadable secret": (
        [("%(here)s/shared-secret", "%(here)s/no-secret")],
        ["[filter:sign]", "'metadata_proxy_shared_secret_file'", "no-secret"],
    ),
    "secret twice": (
        [("[filter:sign]", "[filter:sign]\nmetadata_proxy_shared_secret = hunter2")],
        ["[filter:sign]", "one of the two"],
    ),
    "both ids": (
        [(IDENTIFY, f"mode = fixed\nnetwork_id = {BLUE}\nrouter_id = {BLUE}")],
        ["[filter:identify-guest]", "exactly one"],
    ),
    "bad UUID": ([(IDENTIFY, "mode = fixed\nnetwork_id = blue")], ["'network_id'", "'blue'", "UUID"]),
    "relay without key": (
        [(IDENTIFY, "mode = relay\nrelay_peers = 10.0.0.1")],
        ["'relay_shared_secret'", "shared key"],
    ),
    "shadowed option": (
        [("[DEFAULT]\n", "[DEFAULT]\nmode = relay\n"), ("mode = relay\n\n", "\n")],
        ["[filter:identify-guest]", "'mode'", "[DEFAULT]", "set mode"],
    ),
    "client certificate without key": (
        [(NOVA, f"nova_client_cert = /x\n{NOVA}")],
        ["[app:to-nova]", "'nova_client_priv_key'"],
    ),
    "unreadable CA": (
        [
            (
                NOVA,
                f"nova_metadata_protocol = https\nauth_ca_cert = /no/ca\n{NOVA}",
            )
        ],
        ["[app:to-nova]", "'auth_ca_cert'", "/no/ca"],
    ),
    "unreadable config file": (
        [("[filter:sign]", "[filter:sign]\nconfig_file = /no/metadata_agent.ini")],
        ["[filter:sign]", "/no/metadata_agent.ini"],
    ),
    "unreadable table": (
        [("listeners.json", "no-listeners.json")],
        ["[filter:identify-guest]", "'listeners_file'", "no-listeners.json"],
    ),
    "unreadable inventory": ([("inventory.yaml", "no-inventory.yaml")], ["no-inventory.yaml"]),
    "unknown resolver": (
        [("resolver = inventory", "resolver = guess")],
        ["[filter:resolve]", "'resolver'", "'guess'", "mdmw.resolvers"],
    ),
    "interpolation of nothing": ([("%(here)s/listeners.json", "%(there)s/x")], ["there"]),
    "a lone percent": ([("%(here)s/listeners.json", "50%")], ["%"]),
    "no application": (
        [("identify-guest resolve sign to-nova", "identify-guest")],
        ["identify-guest"],
    ),
    "an empty pipeline": (
        [(f"pipeline = {OBSERVERS} identify-guest resolve sign to-nova", "pipeline =")],
        ["combined"],
    ),
    "an application in between": (
        [("identify-guest resolve sign to-nova", "identify-guest responder to-nova")],
        ["responder"],
    ),
    "no resolve": (
        [("identify-guest resolve sign to-nova", "identify-guest sign to-nova")],
        ["[pipeline:combined]", "'sign'", "mdmw.instance"],
    ),
    "no sign": (
        [("identify-guest resolve sign to-nova", "identify-guest resolve to-nova")],
        ["[pipeline:combined]", "'to-nova'", "mdmw.proofs"],
    ),
    "no identify": (
        [("identify-guest resolve sign to-nova", "resolve sign to-nova")],
        ["[pipeline:combined]", "'resolve'", "mdmw.source"],
    ),
    "the wrong order": (
        [
            (
                "identify-guest resolve sign to-nova",
                "resolve identify-guest sign to-nova",
            )
        ],
        ["[pipeline:combined]", "'resolve'", "mdmw.source"],
    ),
    "nobody identified for the agent": (
        [("identify-guest resolve sign to-nova", "to-agent")],
        ["[pipeline:combined]", "'to-agent'", "mdmw.source"],
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_file(ini, kind):
    """File, section, option, value, what is allowed; secrets masked; no trace."""
    edits, named = BAD[kind]
    text = refusal(edit(ini, *edits))
    assert [name for name in named if name not in text] == []


@pytest.mark.parametrize(
    "content", [None, b"", b"no section\n", b"\xff\xfe\n", b"[DEFAULT\n", b"[pipeline:combined]\n"]
)
def test_no_such_file_or_no_such_format(tmp_path, content):
    path = tmp_path / "x.ini"
    if content is not None:
        path.write_bytes(content)
    refusal(path)


def test_a_folder(tmp_path):
    refusal(tmp_path)


def test_no_such_pipeline(ini):
    """The line says what there is."""
    text = refusal(ini, "main")
    assert [name for name in names(str(ini)) if name not in text] == []


# --- the modules of servers -------------------------------------------------------------


@pytest.mark.parametrize("name", pipelines.NAMES)
def test_a_module_for_each_pipeline(ini, name, monkeypatch):
    monkeypatch.setenv("MDMW_PASTE_INI", str(ini))
    monkeypatch.delitem(sys.modules, f"mdmw.wsgi.{name}", raising=False)
    module = importlib.import_module(f"mdmw.wsgi.{name}")
    monkeypatch.delitem(sys.modules, f"mdmw.wsgi.{name}")
    assert callable(module.application)


def test_a_bad_file_ends_the_server_with_one_line(ini):
    """Status 2, no trace."""
    edit(ini, ("mode = listener", "mode = guess"))
    ended = subprocess.run(
        [sys.executable, "-c", "import mdmw.wsgi.combined"],
        env={"MDMW_PASTE_INI": str(ini), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"mdmw: {ini}: [filter:identify-guest]: option 'mode'")


def test_a_good_file_says_nothing(ini, capfd, monkeypatch):
    monkeypatch.setenv("MDMW_PASTE_INI", str(ini))
    assert callable(load_or_exit("standalone"))
    assert capfd.readouterr() == ("", "")


def test_where_the_file_is_looked_for(ini, monkeypatch, tmp_path):
    monkeypatch.setenv("MDMW_PASTE_INI", "/some/where")
    assert pipelines.ini_file() == "/some/where"
    monkeypatch.delenv("MDMW_PASTE_INI")
    monkeypatch.chdir(Path(__file__).parents[2])
    assert Path(pipelines.ini_file()) == Path("etc/api-paste.ini")
    monkeypatch.chdir("/")
    assert Path(pipelines.ini_file()).is_file()


# --- filters of others ------------------------------------------------------------------

OTHERS = """
    def plain(global_conf, **local_conf):
        def make(app):
            def count(environ, start_response):
                environ["others.count"] = environ.get("others.count", 0) + 1
                def start(status, headers, exc_info=None):
                    return start_response(status, [*headers, ("X-Counted", local_conf["word"])])
                return app(environ, start)
            return count
        return make

    def knows(global_conf, **local_conf):
        from mdmw.records import SOURCE, Scope, Source
        def make(app):
            def identify(environ, start_response):
                environ[SOURCE] = Source("10.0.0.5", Scope("network", local_conf["network"]))
                return app(environ, start_response)
            return identify
        make.provides = {SOURCE}
        return make

    def wants(global_conf, **local_conf):
        make = lambda app: app
        make.requires = {"others.record"}
        return make

    def breaks(global_conf, **local_conf):
        raise ValueError("a\\nreason")
"""


@pytest.fixture
def others(tmp_path, monkeypatch):
    """Filters of somebody else's package."""
    (tmp_path / "filters_of_others.py").write_text(textwrap.dedent(OTHERS))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("filters_of_others", None)


def add(ini, section, factory, *lines):
    with ini.open("a") as file:
        file.write(f"\n[filter:{section}]\npaste.filter_factory = filters_of_others:{factory}\n")
        file.writelines(f"{line}\n" for line in lines)


def test_a_filter_of_others_in_between(ini, others):
    """Anywhere; it declares nothing and needs to know nothing."""
    add(ini, "count", "plain", "word = yes")
    edit(
        ini,
        (
            "identify-guest resolve responder",
            "count identify-guest count resolve count responder",
        ),
    )
    reply = call(
        load("standalone", str(ini)), target="/latest/meta-data/local-ipv4", **{"mdmw.listener": LISTENER}
    )
    assert (reply.body, reply.values("X-Counted")) == (b"10.0.0.5", ["yes"] * 3)


def test_a_filter_of_others_that_provides(ini, others):
    """It says so, and then takes the place of one of ours."""
    add(ini, "knows", "knows", f"network = {BLUE}")
    edit(ini, ("identify-guest resolve responder", "knows resolve responder"))
    app = load("standalone", str(ini))
    assert call(app, target="/latest/meta-data/local-ipv4", peer="192.0.2.1").body == b"10.0.0.5"


def test_a_filter_of_others_that_requires(ini, others):
    add(ini, "wants", "wants")
    edit(
        ini,
        ("identify-guest resolve responder", "identify-guest wants resolve responder"),
    )
    text = refusal(ini, "standalone")
    assert "'wants' needs others.record" in text


def test_a_filter_of_others_that_breaks(ini, others):
    add(ini, "breaks", "breaks")
    edit(
        ini,
        ("identify-guest resolve responder", "identify-guest breaks resolve responder"),
    )
    assert "a reason" in refusal(ini, "standalone")


def test_a_section_that_uses_another(ini):
    """Paste's own inheritance: `use = identify-guest` with another option."""
    with ini.open("a") as file:
        file.write(f"\n[filter:fixed]\nuse = egg:mdmw#source-identify\nmode = fixed\nnetwork_id = {BLUE}\n")
        file.write("\n[filter:of-the-one]\nuse = fixed\naddress = 10.0.0.5\n")
    edit(ini, ("identify-guest resolve responder", "of-the-one resolve responder"))
    app = load("standalone", str(ini))
    assert call(app, target="/latest/meta-data/local-ipv4", peer="").body == b"10.0.0.5"
    found = stages(str(ini), "standalone")[len(OBSERVERS.split())]
    assert (found.section, found.entry_point) == ("of-the-one", "source-identify")


def test_stages_show_no_secret(ini):
    edit(
        ini,
        (
            "metadata_proxy_shared_secret_file = %(here)s/shared-secret",
            "metadata_proxy_shared_secret = hunter2",
        ),
    )
    assert "hunter2" not in repr(stages(str(ini), "combined"))


@pytest.mark.parametrize("pipeline", ["proxy", "combined"])
def test_loading_connects_to_nobody(ini, peers, pipeline):
    """Servers load once and then fork: a connection of before would be of all workers."""
    peer = peers.unix(silent)
    edit(ini, ("unix:%(run)s/nova", str(peer.address)), ("%(run)s/metadata_proxy", peer.address.path))
    gc.collect()  # pipelines of earlier tests, which may have sockets open
    before = sockets()
    assert callable(load(pipeline, str(ini)))
    assert sockets() <= before
    assert peer.connections == 0


def sockets():
    """Those of this process. Files are opened at any time, by what observes the requests of other tests."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {target for target in found if target.startswith("socket:")}


def test_two_pipelines_of_one_file_share_nothing(ini):
    one, two = load("combined", str(ini)), load("combined", str(ini))
    assert one is not two
