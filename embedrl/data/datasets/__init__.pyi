from .eyes17 import Eyes17Tasks as Eyes17Tasks
from .openclipart import OpenClipartTasks as OpenClipartTasks
from .tux import TuxSource as TuxSource
from .tux import TuxTasks as TuxTasks
