from .backbone import Backbone as Backbone
from .generator import Generator as Generator
from .lora import LoRAOptions as LoRAOptions
from .open_clip.backbone import OpenClipBackbone as OpenClipBackbone
from .qwen_vl.backbone import QwenVLBackbone as QwenVLBackbone
from .qwen_vl.preprocess import PixelBudget as PixelBudget
from .qwen_vl.reasoner import QwenVLReasoner as QwenVLReasoner
from .sampling import SamplingOptions as SamplingOptions
