"""The environment variables that Slurm's programs and the workers get.

The command may itself run in a Slurm job or under torchrun; their variables must not reach the cells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from unigrpo.errors import ConfigError

#: Variables with the address of the cluster and the user's credentials.
_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_SOCKET")
#: Prefixes of variables with options of Slurm's programs, or with facts about a job.
_OF_SLURM = (
    "SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SBATCH_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SUBMITIT_",
)  # fmt: skip
#: Variables with which torchrun, accelerate and MPI describe a group of processes.
_OF_A_GROUP = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CROSS_SIZE", "MASTER_ADDR",
    "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME",
    "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
)  # fmt: skip
_OF_MPI = ("TORCHELASTIC_", "PMI_", "PMIX_", "PALS_", "OMPI_COMM_", "MV2_COMM_")
#: One thread for each process.  Threads that wait for each other on shared cores are ten times slower, and sums over
#: several threads round differently.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def is_of_a_group(name: str) -> bool:
    """Whether the variable describes a process as a member of a group."""
    return name in _OF_A_GROUP or name.startswith(_OF_MPI)


def of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for Slurm's programs, without those that would change their options or output."""
    return {
        name: value
        for name, value in environment.items()
        if name in _OF_THE_CLUSTER or not (name.startswith(_OF_SLURM) or is_of_a_group(name))
    }


def of_worker(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a worker that trains a cell in a single process."""
    return {name: value for name, value in environment.items() if not is_of_a_group(name)} | THREADS


def check_clusters(environment: Mapping[str, str]) -> None:
    """Check that all of Slurm's programs use the same cluster.

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
    """Make ``environment`` the environment of this process within the block."""
    before = dict(os.environ)
    _set(environment)
    try:
        yield
    finally:
        _set(before)


def _set(environment: Mapping[str, str]) -> None:
    """Replace the environment without ever emptying it, as other threads may read it."""
    os.environ.update(environment)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
