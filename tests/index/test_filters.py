import pytest

from embedrl.errors import ConfigError
from embedrl.index.filters import check_filter, equals_any


@pytest.mark.parametrize(
    "where",
    ["year > 2020", "title = 'a;b -- (c'", "`odd name` = 1", "(a = 1) OR (b = 2)", "title = 'it''s'", "a LIKE '%\"%'"],
)
def test_one_condition_passes(where):
    assert check_filter(where) == f"({where})"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a = 1; DROP TABLE items", "';'"),
        ("a = 1 -- all", "'--'"),
        ("a = 1 /* all */", r"'/\*'"),
        ("a = 'b", "quote"),
        ("a = 1) OR (b = 2", "parentheses"),
        ("(a = 1", "parentheses"),
        ("a = '\0'\0", "x00"),
    ],
)
def test_anything_else_is_refused(where, said):
    with pytest.raises(ConfigError, match=said):
        check_filter(where)


def test_a_text_in_a_condition_is_quoted():
    assert equals_any("key", ["a", "x') OR ('1' = '1"]) == "key IN ('a', 'x'') OR (''1'' = ''1')"
