from .frozen_embedder import FrozenEmbedder as FrozenEmbedder
from .tcot_writer import write_tcots as write_tcots
