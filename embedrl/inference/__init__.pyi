from .frozen_embedder import FrozenEmbedder as FrozenEmbedder
from .reranker import Reranker as Reranker
from .sentence_module import SentenceTransformersModule as SentenceTransformersModule
from .step_model import StepModel as StepModel
from .tcot_writer import write_tcots as write_tcots
from .thinking_reranker import ThinkingReranker as ThinkingReranker
