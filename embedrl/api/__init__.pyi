from .embedder import Embedder as Embedder
from .encoding import Encoded as Encoded
from .items import to_side as to_side
from .reasoner import Reasoner as Reasoner
from .scoring import evaluate as evaluate
from .thought import Thought as Thought
