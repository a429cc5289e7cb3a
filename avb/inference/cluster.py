"""Shards of scores computed by many workers: Ray Data distributes them to the processes of a machine or cluster.

A worker loads the model and processes one shard after another. It writes the shard itself, so only names pass through
Ray, and the memory of a worker does not grow with the number of clips. If a worker dies, Ray starts another one, which
computes the unfinished shard again. This project must be installed on every machine, and model, clips and output folder
must have the same paths on all of them.
"""

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from transformers.utils import logging as transformers_logging

from avb.errors import AvbError
from avb.inference.clips import Clips
from avb.inference.scorer import Scorer
from avb.inference.shards import Shard, find_attempts, score_shard

MAX_DEATHS = 4  # a shard is given up after this many workers died, because a clip may be the cause


def import_ray():
    """Imports the package ray.

    Raises:
        AvbError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at import
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise AvbError(f'{error.name}, which --ray needs, is missing: pip install "avb[scale]"') from error
    return ray


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Connects to a cluster while the context is open; an existing connection is used.

    Args:
        address: HOST:PORT of a cluster, "auto" for the one on this machine, "local" to start one; empty for the cluster
            of RAY_ADDRESS or on this machine, or to start one if there is none.

    Raises:
        AvbError: there is no cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        where = f"--ray {address}".strip()
        raise AvbError(f"{where}: no Ray cluster there ({str(error).splitlines()[0]}); see `ray status`") from error
    try:
        yield
    finally:
        ray.shutdown()


class Worker:
    """The worker on a machine of the cluster."""

    def __init__(self, **settings):
        self.settings = settings

    @cached_property
    def scorer(self) -> Scorer:
        transformers_logging.disable_progress_bar()
        return Scorer.load(**self.settings)

    def __call__(self, row: dict) -> dict:
        """Computes a shard, unless too many workers died with it: then it is left out, and reported as missing.

        An error is returned and ends the run; only the death of a worker leads to another attempt.
        """
        shard, clips = pickle.loads(row["shard"])  # noqa: S301  just pickled by the driver
        if len(find_attempts(shard.path)) >= MAX_DEATHS:
            return {"clips": 0, "error": ""}
        try:
            score_shard(self.scorer, shard, clips)
        except AvbError as error:
            return {"clips": 0, "error": str(error)}
        except Exception as error:
            return {"clips": 0, "error": f"{shard.path}: {type(error).__name__}: {error}"}
        return {"clips": shard.stop - shard.start, "error": ""}


def score_on_ray(shards: list[Shard], clips: Clips, workers: int | None, **settings) -> Iterator[int]:
    """Computes the shards on the connected cluster.

    Args:
        shards: to compute.
        clips: all clips of the run.
        workers: maximum number of processes; None: one per GPU of the cluster, or per CPU if it has no GPU.
        settings: of `Scorer.load`: name, device, dtype, batch_seconds, num_workers, max_seconds, coverage.

    Yields:
        The number of clips of each shard when it is written. Shards whose workers died repeatedly are left out.

    Raises:
        AvbError: a worker cannot load the model, or cannot write.
    """
    ray = import_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    gpus = int(ray.cluster_resources().get("GPU", 0)) if settings["device"] != "cpu" else 0
    if settings["device"] == "cuda" and not gpus:
        raise AvbError("--device cuda: the Ray cluster has no GPU")
    workers = workers or gpus or int(ray.cluster_resources().get("CPU", 1))
    workers = min(workers, len(shards))
    rows = [{"shard": pickle.dumps((shard, clips.part(shard.start, shard.stop)))} for shard in shards]
    shards_of = ray.data.from_items(rows, override_num_blocks=len(rows))  # one block each: the unit that is repeated
    shards_of.context.enable_progress_bars = False
    made = shards_of.map(
        Worker,
        fn_constructor_kwargs=settings,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    try:
        for row in made.iter_rows():
            if row["error"]:
                raise AvbError(row["error"])
            yield row["clips"]
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise AvbError(f"the Ray cluster failed ({reason}); the same command continues from here") from error
