from . import construction as construction
from . import data as data
from . import distributed as distributed
from . import inference as inference
from . import losses as losses
from . import metrics as metrics
from . import models as models
from . import rl as rl
from . import tcot as tcot
from . import training as training
from .data.datamodules.egrl import EGRLDataModule as EGRLDataModule
from .data.datamodules.embedder import EmbedderDataModule as EmbedderDataModule
from .data.datamodules.reasoner import ReasonerDataModule as ReasonerDataModule
from .errors import EmbedRLError as EmbedRLError
from .inference.frozen_embedder import FrozenEmbedder as FrozenEmbedder
from .models.open_clip.backbone import OpenClipBackbone as OpenClipBackbone
from .models.qwen_vl.backbone import QwenVLBackbone as QwenVLBackbone
from .models.qwen_vl.reasoner import QwenVLReasoner as QwenVLReasoner
from .rl.module import EGRLModule as EGRLModule
from .training.embedder import EmbedderModule as EmbedderModule
from .training.reasoner import ReasonerModule as ReasonerModule
from .types import Modality as Modality
from .types import Pair as Pair
from .types import RetrievalTask as RetrievalTask
from .types import Role as Role
from .types import Side as Side

__version__: str
