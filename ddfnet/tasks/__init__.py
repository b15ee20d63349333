"""What is learned."""

from .candidates import Candidate, open_candidates
from .classification import Classification
from .evaluation import Evaluation
from .filter_pictures import generated_filters
from .results import Results

__all__ = ["Candidate", "Classification", "Evaluation", "Results", "generated_filters", "open_candidates"]
