"""What reaches Slurm's programs and the workers of the environment that the command was given in.

Whatever that is part of, a Slurm job or a torchrun, its own variables say nothing about the cells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from unigrpo.errors import ConfigError

#: Variables of Slurm's that say where the cluster is, and to whom it answers.
_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_SOCKET")
#: How variables begin of which Slurm's programs read their options, and with which a job says what it is.
_OF_SLURM = (
    "SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SBATCH_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SUBMITIT_",
)  # fmt: skip
#: With which torchrun, accelerate and MPI tell a process of others beside it.
_OF_A_GROUP = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CROSS_SIZE", "MASTER_ADDR",
    "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME",
    "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
)  # fmt: skip
_OF_MPI = ("TORCHELASTIC_", "PMI_", "PMIX_", "PALS_", "OMPI_COMM_", "MV2_COMM_")
#: One thread for each process.  Those that wait for each other on shared cores are slower by an order of magnitude, and
#: sums of several threads have other last bits.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def is_of_a_group(name: str) -> bool:
    """Whether the variable is a word of some launcher to one of several processes."""
    return name in _OF_A_GROUP or name.startswith(_OF_MPI)


def of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """What Slurm's programs get: nothing that would change what they do or how they answer."""
    return {
        name: value
        for name, value in environment.items()
        if name in _OF_THE_CLUSTER or not (name.startswith(_OF_SLURM) or is_of_a_group(name))
    }


def of_worker(environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker gets that trains a cell alone."""
    return {name: value for name, value in environment.items() if not is_of_a_group(name)} | THREADS


def check_clusters(environment: Mapping[str, str]) -> None:
    """See to it that all of Slurm's programs speak of the same cluster.

    Raises:
        ConfigError: they would not.
    """
    if "SBATCH_CLUSTERS" in environment:
        raise ConfigError("SBATCH_CLUSTERS sends jobs where squeue does not look for them; set SLURM_CLUSTERS instead")
    clusters = environment.get("SLURM_CLUSTERS", "")
    if "," in clusters or clusters == "all":
        raise ConfigError(f"SLURM_CLUSTERS={clusters}: expected one cluster, whose numbers of jobs are its own")


@contextmanager
def changed(environment: Mapping[str, str]) -> Iterator[None]:
    """Let ``environment`` be that of this process, and of what it starts meanwhile."""
    before = dict(os.environ)
    _set(environment)
    try:
        yield
    finally:
        _set(before)


def _set(environment: Mapping[str, str]) -> None:
    """Not by way of an empty one: other threads read it meanwhile."""
    os.environ.update(environment)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
