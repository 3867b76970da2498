"""The experiment functions that the files under ``experiments/sac_bl/`` name."""

from reproven.papers.sac_bl.experiments.inspection import inspection_table
from reproven.papers.sac_bl.experiments.pathwise import pathwise
from reproven.papers.sac_bl.experiments.phase import boundary, phase
from reproven.papers.sac_bl.experiments.plug_ins import image_detectors, table_detectors, window_detectors
from reproven.papers.sac_bl.experiments.printed import audit
from reproven.papers.sac_bl.experiments.real import one_versus_rest
from reproven.papers.sac_bl.experiments.synthetic import lambda_draws, simulation
from reproven.papers.sac_bl.experiments.textures import texture_defects
from reproven.papers.sac_bl.experiments.theorems import theorems

__all__ = [
    "audit",
    "boundary",
    "image_detectors",
    "inspection_table",
    "lambda_draws",
    "one_versus_rest",
    "pathwise",
    "phase",
    "simulation",
    "table_detectors",
    "texture_defects",
    "theorems",
    "window_detectors",
]
