"""Options: where they come from, who wins, and the one line that says what is wrong (spec 5)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oslo_config import cfg

from mdmw.errors import ConfigError
from mdmw.options import load, refuse, shown

OPTIONS = [
    cfg.StrOpt("name", default="nobody"),
    cfg.StrOpt("mode", required=True, choices=["fast", "slow"]),
    cfg.IntOpt("count", default=1, min=0, max=9),
    cfg.FloatOpt("seconds", default=1.5, min=0.1),
    cfg.BoolOpt("flag", default=False),
    cfg.ListOpt("peers", default=[]),
    cfg.DictOpt("pairs", default={}),
    cfg.PortOpt("port", default=80),
    cfg.MultiStrOpt("secret", default=[], secret=True),
    cfg.IntOpt("pin", default=0, secret=True),
    cfg.StrOpt("new_name", deprecated_name="old_name"),
]


def parse(local=None, global_conf=None, **more):
    return load("thing", OPTIONS, global_conf or {}, {"mode": "fast"} | (local or {}) | more)


def refusal(*args, **kwargs):
    """The one line of the error."""
    with pytest.raises(ConfigError) as error:
        parse(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert "LocationInfo" not in text
    assert error.value.__cause__ is None
    if error.value.__context__:
        assert error.value.__suppress_context__, "a traceback would show the value"
    return text


@pytest.fixture
def ini(tmp_path):
    """Writes a paste file and returns (global_conf, local_conf) as Paste makes them for [filter:one]."""

    def write(one, defaults=None, more=""):
        path = tmp_path / "api-paste.ini"
        text = "[DEFAULT]\n" + "".join(f"{k} = {v}\n" for k, v in (defaults or {}).items())
        text += "[filter:one]\nuse = egg:mdmw#thing\n" + "".join(f"{k} = {v}\n" for k, v in one.items())
        path.write_text(text + more)
        global_conf = {"here": str(tmp_path), "__file__": str(path), **(defaults or {})}
        return global_conf, {k: v for k, v in one.items() if k not in (defaults or {})}

    return write


@pytest.fixture
def oslo(tmp_path):
    """Writes an oslo.config file and returns its path."""

    def write(text, name="agent.ini"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


# --- values -----------------------------------------------------------------------------


def test_defaults():
    settings = parse()
    assert (settings.name, settings.count, settings.seconds, settings.flag) == ("nobody", 1, 1.5, False)
    assert (settings.peers, settings.pairs, settings.port, settings.secret) == ([], {}, 80, [])


def test_values_have_their_types():
    settings = parse(
        name="x",
        count="7",
        seconds="2",
        flag="yes",
        peers="a, b,c",
        pairs="a:1, b:2",
        port="8775",
        secret="s\nt",
    )
    assert (settings.name, settings.count, settings.seconds, settings.flag) == ("x", 7, 2.0, True)
    assert (settings.peers, settings.pairs, settings.port) == (["a", "b", "c"], {"a": "1", "b": "2"}, 8775)
    assert settings.secret == ["s", "t"]


def test_the_old_name_of_an_option():
    """5: the 2013 spellings."""
    assert parse(old_name="x").new_name == "x"


def test_who_wins(oslo):
    """The section, then [DEFAULT] of the paste file, then the oslo.config file, then the default."""
    file = oslo("[DEFAULT]\nname = from the file\ncount = 2\nflag = true\n")
    settings = parse({"name": "section"}, {"count": "3", "name": "default"}, config_file=file)
    assert (settings.name, settings.count, settings.flag, settings.port) == ("section", 3, True, 80)


def test_several_files_the_last_wins(oslo):
    one, two = oslo("[DEFAULT]\nname = 1\ncount = 1\n", "one"), oslo("[DEFAULT]\nname = 2\n", "two")
    settings = parse(config_file=f"{one}, {two}")
    assert (settings.name, settings.count) == ("2", 1)


def test_foreign_options_and_sections_of_a_file_do_not_matter(oslo):
    """It may be Neutron's own metadata_agent.ini."""
    file = oslo("[DEFAULT]\ndebug = true\nname = x\n[agent]\nreport_interval = 30\n")
    assert parse(config_file=file).name == "x"


def test_nothing_comes_from_the_command_line_or_the_environment(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gunicorn", "--config-file", "/nowhere", "--name", "argv"])
    monkeypatch.setenv("OS_DEFAULT__NAME", "environment")
    assert parse().name == "nobody"


def test_two_sections_do_not_see_each_other():
    one, two = parse(name="one"), parse()
    assert (one.name, two.name) == ("one", "nobody")


def test_what_paste_adds_to_the_global_part_is_no_option():
    assert parse({}, {"here": "/", "__file__": "", "anything": "at all"}).name == "nobody"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), max_size=30))
@example("$name")
@example("pa$$word$")
@example("${nothing}")
def test_text_of_a_section_is_taken_as_it_is(text):
    """oslo.config replaces $name in its own files; a secret of a section may contain any `$`."""
    assert parse(name=text).name == text
    assert parse(secret=text).secret == ([text] if text else [])


def test_of_several_files_the_last_one_has_the_say(oslo, tmp_path):
    """As with options of one value: what an earlier file lists is not added to it."""
    one = oslo("[DEFAULT]\nsecret = old\n", "one.ini")
    two = oslo("[DEFAULT]\nsecret = new\nsecret = newer\n", "two.ini")
    three = oslo("[DEFAULT]\nname = x\n", "three.ini")
    assert parse(config_file=f"{one}, {two}, {three}").secret == ["new", "newer"]
    (tmp_path / "more.d").mkdir()
    oslo("[DEFAULT]\nsecret = a\n", "more.d/1.conf")
    oslo("[DEFAULT]\nsecret = b\n", "more.d/2.conf")
    assert parse(config_file=one, config_dir=str(tmp_path / "more.d")).secret == ["b"]


# --- refusals ---------------------------------------------------------------------------


def test_an_unknown_option(ini):
    text = refusal(*reversed(ini({"mode": "fast", "colour": "blue"})))
    assert "api-paste.ini: [filter:one]: unknown option 'colour'" in text
    assert "known are: config_dir, config_file, count, flag, mode, name" in text


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("mode", "quick", "fast"),
        ("count", "10", "9"),
        ("count", "-1", "0"),
        ("count", "x", "int"),
        ("seconds", "0", "0.1"),
        ("seconds", "soon", "float"),
        ("seconds", "nan", "not a finite number"),
        ("seconds", "inf", "finite"),
        ("flag", "perhaps", "boolean"),
        ("port", "65536", "65535"),
        ("pairs", "a", "key"),
    ],
)
def test_a_bad_value(ini, oslo, option, value, allowed):
    """File, section, option, value, what is allowed."""
    text = refusal(*reversed(ini({"mode": "fast", option: value})))
    assert f"api-paste.ini: [filter:one]: option {option!r}" in text
    assert value in text
    assert allowed in text
    in_default = refusal({}, {option: value}) if option != "mode" else ""
    assert in_default == "" or value in in_default
    if option != "mode":
        from_file = refusal(config_file=oslo(f"[DEFAULT]\n{option} = {value}\n"))
        assert f"option {option!r}" in from_file
        assert allowed in from_file


def test_a_missing_option(ini):
    global_conf, local_conf = ini({"name": "x"})
    with pytest.raises(ConfigError, match=r"\[filter:one\]: option 'mode' is required"):
        load("thing", OPTIONS, global_conf, local_conf)


@pytest.mark.parametrize("kind", ["absent", "a directory", "unreadable", "not text"])
def test_a_config_file_that_cannot_be_read(tmp_path, ini, kind):
    path = tmp_path / "agent.ini"
    if kind == "a directory":
        path.mkdir()
    elif kind == "not text":
        path.write_bytes(b"[DEFAULT]\nname = \xff\xfe\n")
    elif kind == "unreadable":
        path.symlink_to(path)
    text = refusal(*reversed(ini({"mode": "fast", "config_file": str(path)})))
    assert "[filter:one]" in text
    assert str(path) in text


def test_a_section_that_default_shadows(ini):
    """Paste drops the option of the section, silently."""
    text = refusal(*reversed(ini({"mode": "fast", "name": "mine"}, {"name": "theirs"})))
    assert "[filter:one]: option 'name' is in [DEFAULT] too" in text
    assert "set name = ..." in text


def test_set_is_not_shadowed(ini, tmp_path):
    """`set name = x` goes through the global part, as Paste documents."""
    global_conf, _ = ini({"mode": "fast", "set name": "mine"}, {"name": "theirs"})
    assert load("thing", OPTIONS, global_conf | {"name": "mine"}, {"mode": "fast"}).name == "mine"


def test_of_two_sections_with_the_same_options_the_right_one_is_named(ini):
    more = "[filter:two]\nuse = egg:mdmw#thing\nmode = fast\ncount = 99\n"
    global_conf, _ = ini({"mode": "fast", "count": "5"}, more=more)
    assert "[filter:two]" in refusal({"count": "99"}, global_conf)


def test_a_file_that_is_gone_or_broken_still_gives_one_line(tmp_path):
    for content in (None, b"no section\n", b"\xff\xfe"):
        path = tmp_path / "x.ini"
        if content:
            path.write_bytes(content)
        assert refusal({"count": "99"}, {"__file__": str(path)}).startswith(f"{path}: thing: option 'count'")


@given(st.sampled_from([opt.dest for opt in OPTIONS]), st.text(max_size=30))
def test_any_value_parses_or_is_refused_in_one_line(option, value):
    try:
        parse({option: value})
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


# --- secrets ----------------------------------------------------------------------------


def test_secrets_are_masked_in_errors(ini, oslo):
    """Also those of an oslo.config file, whose errors quote the line."""
    assert "4711x" not in refusal(*reversed(ini({"mode": "fast", "pin": "4711x"})))
    assert "4711x" not in refusal({}, {"pin": "4711x"})
    for text in (
        "[DEFAULT]\npin = 4711x\n",
        "[DEFAULT]\nsecret = a$4711x\n",
        "[DEFAULT]\nsecret = ${4711x\n",
        "[DEFAULT]\nsecret = $nobody4711x\n",
        "[DEFAULT]\nsecret 4711x\n",
        "  4711x\n",
        "secret = 4711x\n",
        "[DEFAULT\nsecret = 4711x\n",
        "[4711x\n",
    ):
        try:
            parse(config_file=oslo(text))
        except ConfigError as error:
            assert "4711x" not in str(error), text  # noqa: PT017
            assert "agent.ini" in str(error) or "option" in str(error)  # noqa: PT017


def test_a_broken_config_file_is_named_with_its_line(oslo):
    text = refusal(config_file=oslo("[DEFAULT]\nname = x\nnothing\n"))
    assert "agent.ini:3, No ':' or '=' found in assignment" in text


def test_settings_show_no_secret():
    settings = parse(secret="hunter2", pin="4711")
    assert "hunter2" not in repr(settings) + str(settings) + f"{settings}"
    assert "4711" not in repr(settings)


def test_shown():
    options = {opt.dest: opt for opt in OPTIONS}
    assert shown(options["secret"], ["hunter2"]) == "****"
    assert shown(options["secret"], []) == ""
    assert shown(options["peers"], ["a", "b"]) == "a, b"
    assert shown(options["name"], None) == ""
    assert shown(options["flag"], False) == "False"


def test_refuse_names_place_and_option(ini):
    global_conf, local_conf = ini({"mode": "fast"})
    error = refuse(load("thing", OPTIONS, global_conf, local_conf), "name", "is odd")
    assert str(error) == f"{global_conf['__file__']}: [filter:one]: option 'name': is odd"
