"""Classification of images, from the pictures' labels to top-1."""

from .array_files import open_array_files
from .candidates import Candidate, open_candidates
from .evaluate import Evaluation, open_evaluation
from .task import Classification

__all__ = ["Candidate", "Classification", "Evaluation", "open_array_files", "open_candidates", "open_evaluation"]
