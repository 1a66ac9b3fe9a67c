import pytest

from embedrl.data.render import RenderOptions, render
from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.unified.layout import UnifiedLayout, arrange, stored_layout
from embedrl.tcot.chat import reasoning_chat
from embedrl.types import Modality, Role, Side

ASKED = UnifiedLayout(request="reason :")
SIDE = Side("a red star", tcot="<thinking>so it is .</thinking><answer>star</answer>")
LENIENT = RenderOptions(on_bad_tcot="lenient")


def texts(chat):
    return [part["text"] for message in chat for part in message["content"]]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (ASKED, ["a red star", "\n", "<disc_emb>", "\n", "reason :"]),
        (UnifiedLayout(disc=False, request="reason :"), ["a red star", "\n", "reason :"]),
        (UnifiedLayout(gen=False, request=""), ["a red star", "\n", "<disc_emb>"]),
        (UnifiedLayout(disc=False, request=""), ["a red star"]),
    ],
)
def test_the_prompt_is_the_same_with_and_without_reasoning_and_as_a_reasoners(layout, expected):
    asked = reasoning_chat(SIDE, Role.QUERY, Modality.IMAGE)
    for chat in (render(SIDE, LENIENT), render(SIDE, RenderOptions(tcot="none")), asked):
        assert texts(arrange(chat, layout).prompt) == expected


def test_the_reasoning_is_what_the_model_has_to_write():
    written = "  First this.\nThen that."
    side = SIDE.with_tcot(written)
    assert arrange(render(side, RenderOptions(tcot="as_written")), ASKED).reasoning == written
    assert arrange(render(SIDE, RenderOptions(tcot="none")), ASKED).reasoning is None
    read = arrange(render(SIDE, LENIENT), ASKED).reasoning
    assert read == "<thinking>so it is .</thinking><rethink></rethink><answer>star</answer>"


def test_a_layout_without_a_token_is_refused():
    with pytest.raises(ConfigError, match=r"layout.disc and layout.gen are both false"):
        UnifiedLayout(disc=False, gen=False)


@pytest.mark.parametrize("values", [{"disc": False, "gen": False}, {"emb": True}, 3])
def test_a_broken_folder_names_its_file(values):
    with pytest.raises(CheckpointError, match=r"folder/embedrl_config.json: broken layout \(.*\): export the model ag"):
        stored_layout("folder", {"layout": values})
    assert stored_layout("folder", {}) is None
    assert stored_layout("folder", {"layout": {"request": "x"}}) == UnifiedLayout(request="x")


def test_a_gate_needs_both_vectors():
    for layout in ({"disc": False}, {"gen": False}):
        with pytest.raises(ConfigError, match=r"layout\.gate chooses between both vectors"):
            UnifiedLayout(gate=True, **layout)
