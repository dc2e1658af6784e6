"""Signatures and shared secrets (S-1, S-2, S-3)."""

import hashlib
import hmac
import itertools
import logging
import threading

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from mdmw.errors import ConfigError
from mdmw.options import load
from mdmw.signing import (
    NOVA_SECRET,
    RELAY_SECRET,
    Signer,
    nova_secret_options,
    nova_signer,
    relay_signer,
    secret_options,
)

ID = b"7c52af88-d14b-45ae-87cf-be154d8c8638"
VECTORS = [
    ("secret", "bde5e01d652f3950448053ea06854867e02f65a976868d8a0973984cfc52d6fa"),
    ("", "3311671058264d3a3b29489d67a0c2a10bc0e78f76eac1e4da558c2813f89b82"),
    ("s\xe9cret", "ea42b91e3190458b6c0268756bb8dba301a5c1c6484ac0ae816c9c5399b05a6d"),
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=80)


def nova(**local):
    """The signer of a section with these options."""
    return nova_signer(load("hmac-sign", nova_secret_options(), {}, local))


def relay(**local):
    return relay_signer(load("agent-forward", secret_options(RELAY_SECRET, "x"), {}, local))


def refusal(**local):
    with pytest.raises(ConfigError) as error:
        nova(**local)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)
    return str(error.value)


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path."""
    count = itertools.count()

    def write(content):
        path = tmp_path / f"file-{next(count)}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# --- S-1 --------------------------------------------------------------------------------


@pytest.mark.parametrize(("secret", "signature"), VECTORS)
def test_vectors(secret, signature):
    """S-1."""
    assert Signer([secret]).sign(ID) == signature
    assert Signer([secret]).verifies(ID, signature)


@given(TEXT, TEXT)
def test_as_nova_computes_it(secret, message):
    """S-1: HMAC-SHA256 of UTF-8 with UTF-8, lower-case hex."""
    expected = hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()
    assert Signer([secret]).sign(message.encode()) == expected


@given(st.lists(TEXT, min_size=1, max_size=4), st.binary(max_size=60))
def test_the_first_signs_and_any_is_accepted(secrets, message):
    """S-3."""
    signer = Signer(secrets)
    assert signer.sign(message) == Signer(secrets[:1]).sign(message)
    assert signer.sign_all(message) == tuple(Signer([secret]).sign(message) for secret in secrets)
    assert all(signer.verifies(message, signature) for signature in signer.sign_all(message))


@given(TEXT, st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=70))
def test_nothing_else_is_accepted(secret, message, other, forged):
    signer = Signer([secret])
    good = signer.sign(message)
    assert signer.verifies(other, good) == (other == message)
    assert signer.verifies(message, forged) == (forged == good)
    for wrong in (
        "",
        good[:-1],
        good + "0",
        good.upper() if good.upper() != good else "",
        good[::-1] + "\u0100",
    ):
        assert not signer.verifies(message, wrong)


def test_one_signer_many_threads():
    """Made once, used for every request."""
    signer, wrong = Signer(["a", "b"]), []
    messages = [b"%d" % number for number in range(200)]
    expected = {message: signer.sign_all(message) for message in messages}

    def work():
        wrong.extend(message for message in messages if signer.sign_all(message) != expected[message])

    crowd = [threading.Thread(target=work) for _ in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert not wrong


# --- S-2 --------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [{}, {NOVA_SECRET: ""}, {NOVA_SECRET: "\n \n"}])
def test_a_secret_is_required(local):
    """S-2: `require_secret` is the default."""
    assert f"option {NOVA_SECRET!r}: a secret is required" in refusal(**local)


def test_an_empty_secret_of_an_oslo_file_is_none(file):
    config = file(f"[DEFAULT]\n{NOVA_SECRET} =\n")
    assert "a secret is required" in refusal(config_file=config)
    assert nova(config_file=config, require_secret="false").sign(ID) == VECTORS[1][1]


def test_no_secret_where_allowed(caplog):
    """S-2: legal upstream, guessable; a warning at start."""
    with caplog.at_level(logging.WARNING):
        assert nova(require_secret="false").sign(ID) == VECTORS[1][1]
    assert "everybody can forge" in caplog.text


def test_one_empty_secret_among_others_is_refused(file):
    config = file(f"[DEFAULT]\n{NOVA_SECRET} = hunter2\n{NOVA_SECRET} =\n")
    assert "a secret is required" in refusal(config_file=config)


# --- S-3 --------------------------------------------------------------------------------


def test_from_an_option():
    assert nova(**{NOVA_SECRET: "secret"}).sign(ID) == VECTORS[0][1]
    assert nova(**{NOVA_SECRET: "s\xe9cret"}).sign(ID) == VECTORS[2][1]
    both = nova(**{NOVA_SECRET: "secret\ns\xe9cret"})
    assert both.sign_all(ID) == (VECTORS[0][1], VECTORS[2][1])


@pytest.mark.parametrize("content", ["secret", "secret\n", " secret \r\n\n", "\n\nsecret\n"])
def test_from_a_file(file, content):
    assert nova(**{f"{NOVA_SECRET}_file": file(content)}).sign_all(ID) == (VECTORS[0][1],)


def test_several_from_a_file(file):
    signer = nova(**{f"{NOVA_SECRET}_file": file("secret\ns\xe9cret\n")})
    assert signer.sign_all(ID) == (VECTORS[0][1], VECTORS[2][1])


def test_a_secret_of_a_file_may_have_any_character_but_the_end_of_a_line(file):
    secret = "a%b$c=d#e;f\u2028g\x0ch\x85i"
    signer = nova(**{f"{NOVA_SECRET}_file": file(secret)})
    assert signer.sign_all(ID) == Signer([secret]).sign_all(ID)


def test_from_a_fernet_file(file):
    key = Fernet.generate_key()
    local = {
        f"{NOVA_SECRET}_file": file(Fernet(key).encrypt(b"secret\ns\xc3\xa9cret\n") + b"\n"),
        f"{NOVA_SECRET}_key_file": file(key + b"\n"),
    }
    assert nova(**local).sign_all(ID) == (VECTORS[0][1], VECTORS[2][1])


@pytest.mark.parametrize("multi", ["secret", "secret\nmetadata_proxy_shared_secret = s\xe9cret"])
def test_from_an_oslo_file(file, multi):
    """Neutron's own metadata_agent.ini, with one secret or with more."""
    config = file(f"[DEFAULT]\n{NOVA_SECRET} = {multi}\n")
    assert nova(config_file=config).sign(ID) == VECTORS[0][1]
    assert len(nova(config_file=config).sign_all(ID)) == multi.count("=") + 1


def test_the_section_wins_over_the_oslo_file(file):
    config = file(f"[DEFAULT]\n{NOVA_SECRET} = other\n")
    assert nova(**{NOVA_SECRET: "secret"}, config_file=config).sign_all(ID) == (VECTORS[0][1],)


def bad_files(file, tmp_path):
    token = Fernet(Fernet.generate_key()).encrypt(b"hunter2")
    key, good = Fernet.generate_key(), file("hunter2")
    return {
        "absent": ({"_file": str(tmp_path / "no")}, "_file", "No such file"),
        "a directory": ({"_file": str(tmp_path)}, "_file", "Is a directory"),
        "empty": ({"_file": file(" \n\n")}, "_file", "holds no secret"),
        "not text": ({"_file": file(b"\xff\xfehunter2")}, "_file", "is not UTF-8 text"),
        "beside the option": ({"": "hunter2", "_file": good}, "_file", "one of the two is allowed"),
        "a key without a file": ({"_key_file": file(key)}, "_key_file", f"needs {NOVA_SECRET}_file"),
        "no key file": ({"_file": good, "_key_file": str(tmp_path / "no")}, "_key_file", "No such file"),
        "another key": (
            {"_file": file(token), "_key_file": file(key)},
            "_key_file",
            "is not the Fernet key",
        ),
        "no key": (
            {"_file": file(token), "_key_file": file("hunter2")},
            "_key_file",
            "is not the Fernet key",
        ),
        "no token": ({"_file": good, "_key_file": file(key)}, "_key_file", "is not the Fernet key"),
        "an empty token": (
            {"_file": file(Fernet(key).encrypt(b" ")), "_key_file": file(key)},
            "_file",
            "holds no secret",
        ),
    }


@pytest.mark.parametrize(
    "kind",
    [
        *["absent", "a directory", "empty", "not text", "beside the option", "a key without a file"],
        *["no key file", "another key", "no key", "no token", "an empty token"],
    ],
)
def test_files_that_cannot_be_used(file, tmp_path, kind):
    """One line: option, what is wrong; never the content."""
    suffixes, option, problem = bad_files(file, tmp_path)[kind]
    text = refusal(**{NOVA_SECRET + suffix: value for suffix, value in suffixes.items()})
    assert f"option {NOVA_SECRET + option!r}" in text
    assert problem in text


def test_the_relay_key(file):
    assert relay() is None
    assert relay(**{RELAY_SECRET: ""}) is None
    assert relay(**{RELAY_SECRET: "secret"}).sign(ID) == VECTORS[0][1]
    assert relay(**{f"{RELAY_SECRET}_file": file("secret")}).sign(ID) == VECTORS[0][1]


def test_nothing_shows_a_secret(caplog):
    with caplog.at_level(logging.DEBUG):
        signer = nova(**{NOVA_SECRET: "hunter2"})
        signer.sign(ID)
        signer.verifies(ID, "x")
    assert "hunter2" not in repr(signer) + repr(vars(signer)) + caplog.text
