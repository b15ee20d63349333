"""What is learned."""

from .classification.candidates import Candidate, open_candidates
from .classification.evaluate import Evaluation
from .classification.result_files import Results
from .classification.task import Classification
from .filter_pictures import generated_filters

__all__ = ["Candidate", "Classification", "Evaluation", "Results", "generated_filters", "open_candidates"]
