"""What the metadata of an argument may say, and what holds for the stock Trainer's arguments."""

from typing import Any

from avb.corpus_arguments import PRIVATE

# The properties that an argument's metadata may set, with their defaults.
PROPERTIES: dict[str, Any] = {
    "changes_result": True,  # False: only affects where a run reads and writes, and how fast; `Result.changes` omits it
    "private": False,  # True: private, or useless to readers elsewhere; a card omits it
    "often_typed": False,  # True: a stock Trainer's argument that --help shows among ours
    "left_alone": False,  # True: ours, but --help shows it after the stock Trainer's
}
NO_CHANGE = {"changes_result": False}

# Arguments of the stock Trainer that change no number, among them do_train, do_eval and do_predict, which are not read.
_NO_INFLUENCE = """
logging_first_step logging_nan_inf_filter log_on_each_node log_level log_level_replica disable_tqdm debug
include_num_input_tokens_seen skip_memory_metrics save_only_model save_on_each_node enable_jit_checkpoint
eval_accumulation_steps torch_empty_cache_steps dataloader_num_workers dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context ddp_backend ddp_bucket_cap_mb ddp_find_unused_parameters
ddp_static_graph ddp_timeout local_rank do_train do_eval do_predict resume_from_checkpoint
""".split()
# Properties of the stock Trainer's arguments. An argument that is not listed changes the result: whatever affects a
# number, even its last digit, or the order of clips, counts as a change.
STOCK: dict[str, dict[str, Any]] = {
    "seed": {**NO_CHANGE, "often_typed": True},  # the table of results has a column for it
    "max_steps": {"often_typed": True},
    "gradient_accumulation_steps": {"often_typed": True},
    "eval_steps": {"often_typed": True},
    "save_steps": {"often_typed": True},
    "logging_steps": {**NO_CHANGE, "often_typed": True},
    "torch_compile": {"often_typed": True},
    "use_cpu": {**NO_CHANGE, "often_typed": True},
    "report_to": {**NO_CHANGE, "often_typed": True},
    "run_name": PRIVATE,
    "logging_dir": PRIVATE,  # in recipes of older runs
    "hub_always_push": PRIVATE,
    "hub_revision": PRIVATE,
    "project": PRIVATE,  # of an experiment tracker, like the three below
    "trackio_space_id": PRIVATE,
    "trackio_bucket_id": PRIVATE,
    "trackio_static_space_id": PRIVATE,
    **dict.fromkeys(_NO_INFLUENCE, NO_CHANGE),
}
