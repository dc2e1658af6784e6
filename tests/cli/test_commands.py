"""check, resolve, sign, completion, serve: what they print and how they end."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mdmw.cli import serve

ETC = Path(__file__).parents[2] / "etc"
BLUE = "1f9c3a52-6d0e-4f6b-9c1e-7a4c0b2d8e31"
ROUTER = "b28e6f41-5d07-49ca-8c9f-13a4d7e0b652"
ADA = "7c52af88-d14b-45ae-87cf-be154d8c8638"
S_1_VECTOR = ("secret", ADA, "bde5e01d652f3950448053ea06854867e02f65a976868d8a0973984cfc52d6fa")


def test_check_prints_every_pipeline_and_no_secret(mdmw, ini):
    text = ini.read_text().replace(
        "metadata_proxy_shared_secret_file = %(here)s/shared-secret", "metadata_proxy_shared_secret = s3cret"
    )
    ini.write_text(text)
    status, out, err = mdmw("check", "--ini", ini)
    assert (status, err) == (0, "")
    for name in ("proxy", "agent", "combined", "standalone", "nova"):
        assert f"pipeline {name}\n" in out
    assert "****" in out
    assert "s3cret" not in out


def test_check_json(mdmw, ini):
    status, out, _ = mdmw("check", "agent", "--ini", ini, "--json")
    assert status == 0
    stages = json.loads(out)["pipelines"]["agent"]
    identify = next(n for n, stage in enumerate(stages) if stage["use"] == "source-identify")
    assert [stage["use"] for stage in stages[identify:]] == [
        "source-identify",
        "instance-resolve",
        "hmac-sign",
        "nova-forward",
    ]
    assert stages[identify + 1]["options"]["inventory_file"] == str(ini.parent / "inventory.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mode = relay", "mode = rely", "[filter:identify-relay]: option 'mode': value 'rely'"),
        ("mode = relay", "mode = relay\nrelay_pears = x", "unknown option 'relay_pears'"),
        ("resolve sign to-nova", "sign resolve to-nova", "'sign' needs"),
        ("resolver = inventory", "resolver = neutrino", "no resolver 'neutrino'"),
        ("identify-relay resolve", "identify-relay nothing", "'nothing'"),
        ("[pipeline:agent]", "[pipeline:agent", "api-paste.ini"),
    ],
)
def test_check_says_what_is_wrong_in_one_line(mdmw, ini, old, new, said):
    assert old in ini.read_text()
    ini.write_text(ini.read_text().replace(old, new, 1))
    status, out, err = mdmw("check", "--ini", ini)
    assert (status, out) == (2, "")
    assert err.startswith(f"mdmw: {ini}")
    assert said in err
    assert err.count("\n") == 1


def test_check_names_the_missing_file(mdmw, tmp_path):
    status, _, err = mdmw("check", "--ini", tmp_path / "none.ini")
    assert (status, err) == (2, f"mdmw: {tmp_path}/none.ini: No such file or directory\n")


def test_r_1_r_2_resolve(mdmw, ini):
    """R-1, R-2: by network and by router, as the agent pipeline would."""
    status, out, _ = mdmw("resolve", "--network", BLUE, "--address", "10.0.0.5", "--ini", ini, "--json")
    assert (status, json.loads(out)["id"]) == (0, ADA)
    status, out, _ = mdmw("resolve", "--router", ROUTER, "--address", "::ffff:10.0.1.5", "--ini", ini)
    assert status == 0
    assert "6be41d0f-a75c-4938-9e02-38d1f5c7ba6e" in out


def test_r_6_resolve_nothing(mdmw, ini):
    """R-6: nobody there is status 1, and says so."""
    status, out, err = mdmw("resolve", "--network", BLUE, "--address", "10.0.0.77", "--ini", ini)
    assert (status, out) == (1, "")
    assert "10.0.0.77" in err


def test_resolve_refuses_an_address_that_is_none(mdmw, ini):
    status, _, err = mdmw("resolve", "--network", BLUE, "--address", "ten", "--ini", ini)
    assert status == 2
    assert "'ten' is not an IP address" in err


def test_s_1_sign(mdmw, ini):
    """S-1: the vector of the specification."""
    secret, instance, signature = S_1_VECTOR
    (ini.parent / "shared-secret").write_text(secret)
    assert mdmw("sign", instance, "--ini", ini) == (0, f"{signature}\n", "")
    _, out, _ = mdmw("sign", instance, "--ini", ini, "--json")
    assert json.loads(out) == {"instance": instance, "signature": signature}


def test_sign_needs_a_pipeline_that_signs(mdmw, ini):
    status, _, err = mdmw("sign", ADA, "--pipeline", "proxy", "--ini", ini)
    assert status == 2
    assert "[pipeline:proxy] has no stage hmac-sign" in err


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("res", ["resolve"]),
        ("resolve --ro", ["--router"]),
        ("node pl", ["plan"]),  # a command of a command
        ("node plan --js", ["--json"]),
        ("serve agent --server g", ["gunicorn", "gunicorn-gevent", "granian"]),
        ("check --ini api-", ["api-paste.ini"]),  # a file
    ],
)
def test_completion_in_bash(mdmw, ini, typed, completed):
    """What bash offers for the last word of a line."""
    _, script, _ = mdmw("completion", "bash")
    words = ["mdmw", *typed.split()]
    asked = f"""
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
"$(complete -p mdmw | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" mdmw "{words[-1]}" "{words[-2]}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script + asked], capture_output=True, text=True, check=True, cwd=ini.parent
    )
    assert sorted(done.stdout.split()) == sorted(completed)


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef mdmw"), ("tcsh", "# AUTOMATICALLY")])
def test_completion_in_other_shells(mdmw, shell, begins):
    """The library makes the script; each command of mdmw is in it."""
    status, script, _ = mdmw("completion", shell)
    assert status == 0
    assert script.startswith(begins)
    assert all(command in script for command in ("serve", "doctor", "inventory"))


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["serve"], ["resolve", "--address", "10.0.0.5"]])
def test_wrong_usage_is_status_2(mdmw, words):
    status, _, err = mdmw(*words)
    assert status == 2
    assert "usage: mdmw" in err


def test_serve_refuses_a_bad_file_before_a_server_starts(ini):
    """One line, status 2, no traceback, as a process."""
    (ini.parent / "shared-secret").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "mdmw", "serve", "agent", "--ini", str(ini)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "[filter:sign]: option 'metadata_proxy_shared_secret_file'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_serve_runs_a_pipeline_of_another_name(ini, tmp_path):
    """A pipeline that has no module of its own is served too."""
    ini.write_text(ini.read_text() + "\n[pipeline:mine]\npipeline = verify responder\n")
    ini.write_text(ini.read_text().replace("state = /var/lib/mdmw", f"state = {tmp_path}"))
    code = (
        "import os, sys; from mdmw.cli.main import main;"
        "os.execv = lambda program, argv: print(argv[-1], os.environ['MDMW_PIPELINE']);"
        "main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "mine", "--ini", str(ini)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "mdmw.wsgi.named:application mine\n"


def test_the_help_of_serve_has_the_numbers_of_the_servers(mdmw):
    """Workers and threads as in etc/, and as on the command lines of servers that have no file there."""
    _, text, _ = mdmw("serve", "--help")
    text = " ".join(text.split())
    gunicorn = runpy.run_path(str(ETC / "gunicorn.conf.py"))
    uwsgi = dict(
        re.findall(r"^(processes|threads) = ([0-9]+)$", (ETC / "uwsgi.ini").read_text(), re.MULTILINE)
    )
    granian, waitress = (
        " ".join(serve.command(server, serve.Launch("x", ("127.0.0.1:1",))))
        for server in ("granian", "waitress")
    )
    (of_granian,) = re.findall(r"--workers ([0-9]+) --blocking-threads ([0-9]+)", granian)
    (of_waitress,) = re.findall(r"--threads=([0-9]+)", waitress)
    assert (
        f"default: gunicorn {gunicorn['workers']}, uwsgi {uwsgi['processes']}, granian {of_granian[0]}; "
        "waitress always has 1" in text
    )
    assert (
        f"default: gunicorn {gunicorn['threads']}, uwsgi {uwsgi['threads']}, waitress {of_waitress}, "
        f"granian {of_granian[1]}" in text
    )
