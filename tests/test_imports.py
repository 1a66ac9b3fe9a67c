"""What may be imported without torch, and how light `embedrl --help` is."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "transformers", "numpy", "PIL", "jsonargparse")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "module", ["", ".types", ".errors", ".tcot.parser", ".tcot.evidence", ".tcot.chat", ".tcot.store"]
)
def test_imports_without_torch(module):
    python(f"import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None; import embedrl{module}")


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    code = f"import sys; from embedrl.cli import main; main({words}); print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code).splitlines()[-1] == "[]"


def test_a_real_checkpoint_does_not_bring_the_built_in_world(checkpoint):
    code = (
        "import sys; from embedrl import QwenVLBackbone, QwenVLReasoner\n"
        f"for kind in (QwenVLBackbone, QwenVLReasoner): model = kind({str(checkpoint)!r}); model.build(); "
        "model.preprocessor()\n"
        "print([name for name in sys.modules if name.startswith('embedrl.data.world')])"
    )
    assert python(code).splitlines()[-1] == "[]"
