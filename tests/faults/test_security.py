"""What docs/explanation/security.md promises of the code as a whole."""

import ast
import re
from pathlib import Path

import embedrl

PACKAGE = Path(embedrl.__file__).parent
PAGE = PACKAGE.parent / "docs/explanation/security.md"
CALLS = [
    (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call)
]


def name_of(call):
    return ast.unparse(call.func)


def test_remote_code_is_never_allowed():
    assert not [place for place, call in CALLS for word in call.keywords if word.arg == "trust_remote_code"]


def test_whatever_torch_loads_is_weights_or_the_users_choice():
    loads = [
        (place, call)
        for place, call in CALLS
        if name_of(call) in ("torch.load", "load_state_dict", "open_clip.load_checkpoint")
    ]
    given = {place: {word.arg: ast.unparse(word.value) for word in call.keywords} for place, call in loads}
    assert len(given) > 5
    assert all(words.get("weights_only") in ("True", "weights_only") for words in given.values()), given


def test_nothing_unpickles_or_evaluates():
    forbidden = {"pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"}
    calls = [(place, name_of(call)) for place, call in CALLS if name_of(call) in forbidden]
    # What workers of one run send each other, as Ray does itself.
    assert [(place.partition(":")[0], name) for place, name in calls] == [("index/ray_stages.py", "pickle.loads")]
    assert not [place for place, call in CALLS for word in call.keywords if word.arg == "shell"]


def test_the_tests_that_the_page_names_are_there():
    names = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE.read_text()))
    assert len(names) > 12
    assert not [name for name in names if not (PAGE.parents[2] / name).is_file()]
