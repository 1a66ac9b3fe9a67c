from .ranking import Ranking as Ranking
from .ranking import rank as rank
from .task_scorer import TaskResult as TaskResult
from .task_scorer import TaskScorer as TaskScorer
