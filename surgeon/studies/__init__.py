"""Studies: grids of recipes, run once and kept, their findings checked. Needs no torch to read."""

from surgeon.studies.findings import Finding
from surgeon.studies.running import StudyResult, resume_study, run_study
from surgeon.studies.study import Cell, Study, studies_of
from surgeon.studies.table import Row, Table

__all__ = [
    "Cell",
    "Finding",
    "Row",
    "Study",
    "StudyResult",
    "Table",
    "resume_study",
    "run_study",
    "studies_of",
]
