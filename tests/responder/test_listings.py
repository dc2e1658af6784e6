"""Listings are derived from leaves (E-2)."""

from hypothesis import given
from hypothesis import strategies as st

from mdmw.responder.trees import listings


def test_e2_example():
    """E-2: sorted bytewise by name, sub-directories with a slash or their own label."""
    found = listings(["b", "a-x", "a/c", "keys/0/k", "keys/1/k"], {"keys/0": "0=ada", "keys/1": "1=ben"})
    assert found == {
        "": ["a/", "a-x", "b", "keys/"],
        "a": ["c"],
        "keys": ["0=ada", "1=ben"],
        "keys/0": ["k"],
        "keys/1": ["k"],
    }


def test_e2_nothing():
    """E-2: no leaves, no names."""
    assert listings([], {}) == {"": []}


# Odd depth for leaves: first names are directories, the last is the leaf.
_leaves = st.sets(
    st.builds(
        lambda parts, leaf: "/".join([*(f"d{p}" for p in parts), leaf]),
        st.lists(st.sampled_from("abc"), max_size=3),
        st.sampled_from(["x", "y", "é"]),
    ),
    max_size=10,
)


@given(_leaves)
def test_e2_walking_finds_the_leaves(leaves):
    """E-2: a walk over the listings finds every leaf once, and nothing else."""
    found = listings(leaves, {})

    def walk(directory):
        names = found[directory]
        assert names == sorted(names, key=lambda name: name.rstrip("/").encode())
        for name in names:
            path = f"{directory}/{name}".lstrip("/")
            yield from walk(path.rstrip("/")) if name.endswith("/") else [path]

    assert sorted(walk("")) == sorted(leaves)
