"""Plans against real, tiny models: parameters, optimizer states, operations, what backward passes keep."""

import json
from functools import partial

import pytest
import torch
from lightning.pytorch.utilities.model_summary import ModelSummary
from PIL import Image
from recipes import CONFIGS
from torch.utils.flop_counter import FlopCounterMode
from verifiable import build as verifiable_rl

from embedrl.commands.plan import plan
from embedrl.errors import CheckpointError, ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.late_interaction import LateInteraction
from embedrl.models.lora import LoRAOptions
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.planning.build import build_on_meta
from embedrl.planning.flops import Flops
from embedrl.planning.memory import Setup, kept, optimizer_bytes, training_bytes
from embedrl.planning.pictures import COLOUR, PictureReader
from embedrl.planning.rows import Assumptions, Sides, TokenRow
from embedrl.planning.shapes import TABLE, find_shape, table_config
from embedrl.planning.trainings import make_plan
from embedrl.training.embedder import EmbedderModule
from embedrl.training.muon import Muon

ADAMW = partial(torch.optim.AdamW, lr=1e-3)
ALONE = Setup(devices=1, sharded=False, compute=4, cast=False)
OPTIONS = {
    "LoRA": {"lora": LoRAOptions(r=4, dropout=0.05)},
    "LoRA without dropout": {"lora": LoRAOptions(r=4, dropout=0.0)},
    "LoRA everywhere": {"lora": LoRAOptions(r=2, dropout=0.0, scope="all-linear")},
    "full": {},
    "full with vision": {"train_vision": True},
    "bfloat16": {"lora": LoRAOptions(r=4), "dtype": "bfloat16"},
}


def cases(first, *others):
    """Names of `OPTIONS`, each without and with gradient checkpointing; all but one are slow."""
    slow = [(name, flag) for name in (first, *others) for flag in (False, True) if (name, flag) != (first, True)]
    return [(first, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]


EMB = {"role": "assistant", "content": [{"type": "text", "text": "<emb>"}]}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def image(side=96, **extra):
    return {"type": "image", "image": Image.new("RGB", (side, side), COLOUR), **extra}


def model(kind=QwenVLBackbone, **options):
    return kind("embedrl:tiny", **options)


def planned_rows(inputs, **options):
    """What is planned for a micro-batch of chats with one picture each."""
    planned, _ = build_on_meta(model(**options))
    picture = PictureReader(planned, 4).read("image", (96, 96))
    rows, length = inputs["input_ids"].shape
    return planned, Flops.of(planned), [(TokenRow(length, (picture,)), float(rows))]


def batch(built):
    words = " ".join(["the red star is top left ."] * 6)
    chats = [[user(image(), text(words)), EMB] for _ in range(2)]
    return built.preprocessor()(chats)


@pytest.mark.parametrize("kind", [QwenVLBackbone, QwenVLReasoner])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_models_on_the_meta_device_have_the_parameters_of_real_ones(kind, options):
    real = model(kind, **options)
    real.build()
    planned, notes = build_on_meta(model(kind, **options))
    assert not notes
    assert all(p.is_meta for p in planned.parameters())
    facts = [{n: (p.shape, p.dtype, p.requires_grad) for n, p in m.named_parameters()} for m in (real, planned)]
    assert facts[0] == facts[1]


def test_trained_parameters_are_those_that_lightning_counts():
    backbone = model(lora=LoRAOptions(r=8))
    module = EmbedderModule(backbone, InfoNCE(), ADAMW)
    module.configure_model()
    summary = ModelSummary(module, max_depth=-1)
    planned, _ = build_on_meta(model(lora=LoRAOptions(r=8)))
    assert sum(p.numel() for p in planned.parameters()) == summary.total_parameters
    assert sum(p.numel() for p in planned.parameters() if p.requires_grad) == summary.trainable_parameters


@pytest.mark.parametrize("make", [ADAMW, partial(torch.optim.SGD, lr=1e-3), partial(Muon, lr=1e-3)])
def test_optimizer_bytes_are_those_of_a_real_state(make):
    real = model(lora=LoRAOptions(r=8))
    real.build()
    trained = [p for p in real.parameters() if p.requires_grad]
    optimizer = make(trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    planned, _ = build_on_meta(model(lora=LoRAOptions(r=8)))
    found = optimizer_bytes([p for p in planned.parameters() if p.requires_grad], make)
    assert found == sum(t.numel() * t.element_size() for t in tensors)


def test_fsdp_shares_out_weights_gradients_and_states():
    planned, _ = build_on_meta(model(lora=LoRAOptions(r=8)))
    alone = training_bytes(planned, ALONE, ADAMW)
    shared = training_bytes(planned, Setup(8, True, 2, False), ADAMW)
    for name in ("weights", "gradients", "optimizer"):
        assert shared[name] == alone[name] / 8
    layer = sum(p.numel() for p in planned.shard_units()[0].parameters())
    root = sum(p.numel() for p in planned.parameters()) - 4 * layer
    assert shared["gathered weights"] == 2 * (root + 2 * layer)


@pytest.fixture
def whole_layers(monkeypatch):
    """A plan counts the last layer whole, which the Embedder computes at `<emb>` alone."""
    monkeypatch.setattr(QwenVLBackbone, "hidden_at", VisionLanguageModel.hidden_at)


@pytest.mark.usefixtures("whole_layers")
@pytest.mark.parametrize(("name", "checkpointed"), cases("LoRA", *list(OPTIONS)[1:5]))
def test_operations_are_those_that_torch_counts(name, checkpointed):
    """The backward pass within 2 %: with LoRA, the gradient of the first layer's input is not needed."""
    options = {"gradient_checkpointing": checkpointed, **OPTIONS[name]}
    built = model(**options)
    built.build()
    built.train()
    inputs = batch(built)
    _, flops, mix = planned_rows(inputs, **options)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        built(inputs)
    assert flops.forward(mix) == pytest.approx(counted.get_total_flops(), rel=1e-6)
    with FlopCounterMode(display=False) as counted:
        built(inputs)[:, 0].sum().backward()
    needed = flops.forward(mix) + flops.backward(mix) + (flops.again(mix) if checkpointed else 0)
    assert needed == pytest.approx(counted.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("vlm", [QwenVLBackbone, partial(VLMBackbone, "embedrl:tiny/idefics3")])
def test_late_interaction_adds_its_projection_to_each_token(vlm):
    make = partial(vlm, "embedrl:tiny") if vlm is QwenVLBackbone else vlm
    built, planned = (LateInteraction(make(train_vision=True), dim=24, budget=None) for _ in range(2))
    built.build()
    build_on_meta(planned)
    facts = [{n: (p.shape, p.dtype, p.requires_grad) for n, p in m.named_parameters()} for m in (built, planned)]
    assert facts[0] == facts[1]
    assert all(p.is_meta for p in planned.parameters())
    inputs = batch(built)
    with FlopCounterMode(display=False) as counted:
        vectors = built(inputs)
        forward = counted.get_total_flops()
        vectors.sum().backward()
    rows, length = inputs["input_ids"].shape
    picture = PictureReader(planned.backbone, 4).read("image", (96, 96))
    flops, mix = Flops.of(planned.backbone, 4, planned.head), [(TokenRow(length, (picture,)), float(rows))]
    assert flops.forward(mix) == pytest.approx(forward, rel=1e-6)
    assert flops.forward(mix) + flops.backward(mix) == pytest.approx(counted.get_total_flops(), rel=0.02)


@pytest.mark.slow
def test_a_recipe_of_late_interaction_is_planned():
    words = ["--config", str(CONFIGS / "quickstart/embedder.yaml")]
    plain, _ = plan([*words, "--model.backbone", str(CONFIGS / "parts/backbone/tiny.yaml")])
    parts = [f"--model.{name}={CONFIGS / f'parts/{name}/late_interaction.yaml'}" for name in ("backbone", "loss")]
    late, _ = plan([*words, *parts])
    width, dim = 128, 64
    assert late.models["backbone"][0] == plain.models["backbone"][0] + width * dim
    assert late.tokens == plain.tokens
    # As many tokens go through the projection as through the decoder.
    more = 2 * width * dim * sum(late.tokens.values())
    assert late.flops["forward"] == pytest.approx(plain.flops["forward"] + more)
    assert late.flops["backward"] == pytest.approx(plain.flops["backward"] + 2 * more)
    assert late.memory["activations kept"] > plain.memory["activations kept"]


def test_operations_of_the_head_and_of_writing():
    built = model(QwenVLReasoner)
    built.build()
    flops, head = Flops.of(build_on_meta(model(QwenVLReasoner))[0]), built.network.get_output_embeddings()
    with FlopCounterMode(display=False) as counted:
        head(torch.zeros(7, 128, requires_grad=True)).sum().backward()
    assert 7 * (flops.head.forward + flops.head.backward) == counted.get_total_flops()
    prompt = built.preprocessor().prompts([[user(text("what is top left ?"))]])
    read = prompt["input_ids"].shape[1]
    with FlopCounterMode(display=False) as counted:
        built.network.generate(
            input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=24, min_new_tokens=24
        )
    expected = flops.forward([(TokenRow(read), 1)]) + flops.written(read, 24)
    assert expected == pytest.approx(counted.get_total_flops(), rel=0.06)


@pytest.mark.usefixtures("whole_layers")
@pytest.mark.parametrize(("name", "checkpointed"), cases("full with vision", "full", "LoRA", "LoRA without dropout"))
def test_bytes_kept_are_those_that_autograd_saves(name, checkpointed):
    """Within 15 %: small tensors such as statistics and masks are left out."""
    options = {"gradient_checkpointing": checkpointed, **OPTIONS[name]}
    built = model(**options)
    built.build()
    built.train()
    inputs, held = batch(built), {}
    own = {p.untyped_storage().data_ptr() for p in built.parameters()}
    own |= {b.untyped_storage().data_ptr() for b in built.buffers()} | {
        v.untyped_storage().data_ptr() for v in inputs.values()
    }

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        built(inputs)
    planned, flops, mix = planned_rows(inputs, **options)
    expected = sum(kept(planned, flops, row, ALONE) * count for row, count in mix)
    assert expected == pytest.approx(sum(size for size, _ in held.values()), rel=0.15)


def test_bytes_of_the_cache():
    built = model(QwenVLReasoner)
    built.build()
    prompt = built.preprocessor().prompts([[user(text("what is top left ?"))]])
    with torch.no_grad():
        cache = built.core(**prompt, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    flops = Flops.of(build_on_meta(model(QwenVLReasoner))[0])
    assert flops.cache * prompt["input_ids"].numel() == held


def test_rows_have_the_pixels_of_the_largest_pictures():
    budget = PixelBudget(1024, 64 * 64)
    options = {"image_pixels": budget, "evidence_pixels": PixelBudget(256, 32 * 32), "frame_pixels": budget}
    reader = model(**options)
    planned, _ = build_on_meta(model(**options))
    sides = Sides(planned, 4, Assumptions(text=0, evidence=2))
    assert (sides.images, sides.evidence) == ((64, 64), (32, 32))
    chat = [[user(image(640), image(640, evidence=True), image(640, evidence=True)), EMB]]
    row = sides.picture() + sides.crops()
    outside = reader.preprocessor()(chat)["input_ids"].shape[1] - row.length
    assert 0 < outside < 24  # the chat template
    assert sides.video().length > 8 * 4  # eight frames of the tiny model, a time step each


def test_the_table_holds_the_shapes_of_the_published_checkpoints():
    table = json.loads(TABLE.read_text())
    for name, row in table["checkpoints"].items():
        planned, notes = build_on_meta(QwenVLReasoner(name))
        assert sum(p.numel() for p in planned.parameters()) == row["parameters"]
        assert len(notes) == 1
        assert "shipped table" in notes[0]
        assert find_shape(name)[0].to_dict() == table_config(table, name).to_dict()
    assert find_shape("ZoengHouNaam/Embed-RL-4B")[0].text_config.hidden_size == 2560


@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-32", 151277313), ("ViT-L-14", 427616513)])
def test_open_clip_models_need_no_download(name, parameters):
    planned, _ = build_on_meta(OpenClipBackbone(name, pretrained="openai"))
    assert sum(p.numel() for p in planned.parameters()) == parameters
    found = training_bytes(planned, ALONE, ADAMW)
    assert found["weights"] == 4 * parameters
    assert found["gradients"] == 4 * (parameters - 1)  # all but the logit scale
    assert training_bytes(planned, Setup(8, True, 2, False), ADAMW)["gathered weights"] == 2 * parameters


def test_unknown_shapes_budgets_and_classes_are_errors():
    with pytest.raises(CheckpointError, match=r"some/model: its config\.json is not on this machine"):
        find_shape("some/model")
    planned, _ = build_on_meta(QwenVLReasoner("Qwen/Qwen3-VL-2B-Instruct"))
    with pytest.raises(ConfigError, match="give image_pixels and frame_pixels"):
        Sides(planned, 2, Assumptions())
    with pytest.raises(ConfigError, match="Linear: `embedrl plan` knows"):
        build_on_meta(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="video_share"):
        Assumptions(video_share=2)


def test_a_training_without_known_lengths_is_refused():
    with pytest.raises(ConfigError, match="does not know the lengths of a VerifiableRLModule's lessons"):
        make_plan(verifiable_rl(), None, None, Assumptions())
