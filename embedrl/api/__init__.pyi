from .embedder import Embedder as Embedder
from .items import to_side as to_side
from .reasoner import Reasoner as Reasoner
from .thought import Thought as Thought
