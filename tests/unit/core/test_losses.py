import pytest

from actune.core.errors import ConfigError
from actune.core.losses import LOSSES, find_codes, name_of


def test_names_and_codes_stand_for_codes():
    assert find_codes(["reasoning"]) == {"reasoning-lost", "reasoning-ambiguous"}
    assert find_codes(["reasoning-lost, system", "tool"]) == {"reasoning-lost", "system-lost", "tool-lost"}
    assert find_codes([]) == find_codes([""]) == frozenset()


def test_every_code_has_a_name():
    for name, codes in LOSSES.items():
        for code in codes:
            assert code in find_codes([name])
            assert code in LOSSES[name_of(code) or ""]
    assert name_of("stop-inside") is None


@pytest.mark.parametrize("name", ["reasonning", "stop-inside", "template-refuses"])
def test_what_cannot_be_allowed_is_named(name: str):
    with pytest.raises(ConfigError, match=name):
        find_codes([name])
