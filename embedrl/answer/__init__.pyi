from .answer import Answer as Answer
from .answer import AnswerSource as AnswerSource
from .asking import answer_question as answer_question
