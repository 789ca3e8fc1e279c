"""Seeded bugs: each is a plausible mistake that some test must notice.  ``python -m tests.mutants`` proves it."""

from __future__ import annotations

from tests.mutants.adapters import ADAPTER_BUGS
from tests.mutants.algorithms import ALGORITHM_BUGS
from tests.mutants.bagel import BAGEL_BUGS
from tests.mutants.blocks import BLOCK_BUGS
from tests.mutants.credit import CREDIT_BUGS
from tests.mutants.data import DATA_BUGS
from tests.mutants.declarations import DECLARATION_BUGS
from tests.mutants.engines import ENGINE_BUGS
from tests.mutants.episodes import EPISODE_BUGS
from tests.mutants.estimates import ESTIMATE_BUGS
from tests.mutants.evaluation import EVALUATION_BUGS
from tests.mutants.flow import FLOW_BUGS
from tests.mutants.foresight import FORESIGHT_BUGS
from tests.mutants.janus import JANUS_BUGS
from tests.mutants.kernels import KERNEL_BUGS
from tests.mutants.losses import LOSS_BUGS
from tests.mutants.mirrors import MIRROR_BUGS
from tests.mutants.models import MODEL_BUGS
from tests.mutants.pipelines import PIPELINE_BUGS
from tests.mutants.plans import PLAN_BUGS
from tests.mutants.readers import READER_BUGS
from tests.mutants.reports import REPORT_BUGS
from tests.mutants.run import RUN_BUGS
from tests.mutants.statistics import STATISTICS_BUGS
from tests.mutants.sweeps import SWEEP_BUGS
from tests.mutants.tuning import TUNING_BUGS

BUGS = (
    *FLOW_BUGS,
    *CREDIT_BUGS,
    *LOSS_BUGS,
    *ALGORITHM_BUGS,
    *EPISODE_BUGS,
    *KERNEL_BUGS,
    *MODEL_BUGS,
    *ADAPTER_BUGS,
    *PIPELINE_BUGS,
    *JANUS_BUGS,
    *PLAN_BUGS,
    *ENGINE_BUGS,
    *RUN_BUGS,
    *SWEEP_BUGS,
    *REPORT_BUGS,
    *MIRROR_BUGS,
    *READER_BUGS,
    *DATA_BUGS,
    *DECLARATION_BUGS,
    *STATISTICS_BUGS,
    *FORESIGHT_BUGS,
    *TUNING_BUGS,
    *EVALUATION_BUGS,
    *ESTIMATE_BUGS,
    *BLOCK_BUGS,
    *BAGEL_BUGS,
)
