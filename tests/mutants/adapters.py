"""Mistakes in what is trained of a model, what it is held to, and what is kept of it."""

from __future__ import annotations

from tests.mutants.bug import Bug, nodes

LAYERS = "unigrpo/models/adapters/layers.py"
TARGETS = "unigrpo/models/adapters/targets.py"
FILES = "unigrpo/models/adapters/files.py"
AVERAGE = "unigrpo/models/adapters/average.py"

ADAPTER_BUGS = (
    Bug(
        "the matrices stay off when the reference fails",
        LAYERS,
        "for layer, active in zip(self._layers, before, strict=True):",
        "for layer, active in () if __import__('sys').exc_info()[0] else zip(self._layers, before, strict=True):",
        nodes("models/adapters/test_layers", "test_the_matrices_come_back_when_the_reference_fails"),
    ),
    Bug(
        "a reference with the matrices on",
        LAYERS,
        "layer._active_adapter = self._active",
        "layer._active_adapter = before[0]",
        nodes("models/adapters/test_layers", "test_the_start_is_the_model_and_the_reference_is_it_for_good"),
    ),
    Bug(
        "held to the bare model, not to the adapter of the start",
        LAYERS,
        "[START] if _has_start(layers) else []",
        "[]",
        nodes("models/adapters/test_files", "test_a_run_starts_from_what_another_has_trained_and_is_held_to_it"),
    ),
    Bug(
        "matrices whose kernel is chosen by gradients",
        LAYERS,
        "        exact_linears(where)\n",
        "",
        nodes("exactness/test_kernels", "test_replay_takes_the_kernels_of_sampling[lora-single_round-True]"),
    ),
    Bug(
        "matrices in bf16",
        LAYERS,
        "dtype = torch.promote_types(weight.dtype, torch.float32)",
        "dtype = weight.dtype",
        nodes("models/adapters/test_layers", "test_matrices_of_a_model_in_bf16_are_fp32_and_its_weights_stay_bf16"),
    ),
    Bug(
        "draws from the global stream",
        LAYERS,
        'a=math.sqrt(5), generator=generator((*key, "adapter", name)))',
        "a=math.sqrt(5))",
        nodes("models/adapters/test_layers", "test_draws_are_those_of_peft_and_depend_on_the_key_and_the_name_alone"),
    ),
    Bug(
        "weights that keep the matrices inside",
        LAYERS,
        "    whole = base.weight + layer",
        "    whole = base.weight.data\n    whole += layer",
        nodes("models/adapters/test_layers", "test_merged_weights_are_those_of_peft_and_go_again"),
    ),
    Bug(
        "a pattern that matches ends of words",
        TARGETS,
        "return len(found) == len(wanted) and all(map(fnmatchcase, found, wanted))",
        'return fnmatchcase(name, f"*{pattern}")',
        nodes("models/adapters/test_targets", "test_a_pattern_is_of_whole_parts_at_the_end"),
    ),
    Bug(
        "a second pattern that may match nothing",
        TARGETS,
        "        for pattern in wanted:\n",
        "        for pattern in wanted[:1]:\n",
        nodes("models/adapters/test_targets", "test_a_pattern_that_matches_nothing_is_refused"),
    ),
    Bug(
        "matrices beside a head that is the embedding",
        TARGETS,
        " and held[id(part.weight)] == 1]",
        "]",
        nodes("models/adapters/test_targets", "test_a_head_that_is_the_embedding_is_no_choice"),
    ),
    Bug(
        "a part's layers under the policy's names",
        FILES,
        'return name.removeprefix(f"{part}.") if part else name',
        "return name",
        nodes("models/adapters/test_files", "test_each_library_loads_its_own_part"),
    ),
    Bug(
        "checkpoints of all weights",
        "unigrpo/models/adapters/lora.py",
        "return layers.trained(policy)\n\n    def restore",
        "return policy.state_dict()\n\n    def restore",
        nodes("training/test_adapters", "test_a_checkpoint_holds_the_matrices_and_their_moments_alone"),
    ),
    Bug(
        "matrices that a resumed run does not take over",
        "unigrpo/models/adapters/lora.py",
        "weight.data.copy_(tensors[name])",
        "weight.data.clone().copy_(tensors[name])",
        nodes("training/test_adapters", "test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one"),
    ),
    Bug(
        "a model left without its matrices",
        "unigrpo/models/adapters/lora.py",
        "        with layers.merged(loaded.policy):\n            save_model",
        "        if True:\n            save_model",
        nodes("training/test_adapters", "test_a_run_leaves_the_matrices_and_the_model_with_them_inside"),
    ),
    Bug(
        "an adapter to start from that is no part of a run",
        "unigrpo/identity.py",
        "if start := config.adapter.digest():",
        "if start := None:",
        nodes("test_identity", "test_what_a_configuration_points_to_is_part_of_a_run_and_of_a_cell"),
    ),
    Bug(
        "an untouched model without the adapter that its arm starts from",
        "unigrpo/config.py",
        'OF_A_MODEL = ("model", "adapter", ',
        'OF_A_MODEL = ("model", ',
        nodes("ablations/test_plan", "test_the_untouched_model_of_an_arm_that_starts_from_an_adapter_has_it"),
    ),
    Bug(
        "arms held against a model without the adapter that they start from",
        "reports/pairs.py",
        'adapter.get("inner", adapter).get("start", "")',
        '""',
        nodes("reports/test_analysis", "test_one_model_with_adapters_from_several_places_is_several"),
    ),
    Bug(
        "a wrapped method of a reference with the matrices on",
        LAYERS,
        "self._switched(found) if callable(found)",
        'self._switched(found) if hasattr(found, "__self__")',
        nodes("models/adapters/test_layers", "test_a_method_that_was_wrapped_is_switched_too"),
    ),
    Bug(
        "an average that moves from the first step as if it were long under way",
        AVERAGE,
        "min(steps / (steps + 9), decay)",
        "decay",
        nodes("models/adapters/test_average", "test_the_average_is_the_weighted_sum_of_places"),
    ),
    Bug(
        "an average that starts where the first step ends",
        AVERAGE,
        "state[AVERAGE] = starts[parameter]",
        "state[AVERAGE] = parameter.detach().clone()",
        nodes("models/adapters/test_average", "test_the_average_is_the_weighted_sum_of_places"),
    ),
    Bug(
        "an average that each weight moves by its own count of steps",
        AVERAGE,
        "            if steps % every == 0:",
        '            steps = int(state["step"])\n            if steps % every == 0:',
        nodes(
            "models/adapters/test_average",
            "test_a_weight_whose_gradient_comes_late_is_averaged_from_its_start_by_the_steps_of_all",
        ),
    ),
    Bug(
        "training that goes on from the average",
        AVERAGE,
        "            state[AVERAGE].copy_(kept)",
        "            pass",
        nodes("models/adapters/test_average", "test_weights_are_their_averages_for_a_while_in_the_same_memory"),
    ),
    Bug(
        "a run that leaves the last weights",
        "unigrpo/training/artifacts.py",
        "    with trainer.config.adapter.measured(trainer.optimizer):",
        "    if True:",
        nodes("training/test_ema", "test_a_run_leaves_the_average"),
    ),
    Bug(
        "an evaluation in the loop of the last weights",
        "unigrpo/training/trainer.py",
        "        with self.config.adapter.measured(self.optimizer):",
        "        if True:",
        nodes("training/test_ema", "test_evaluations_in_the_loop_see_it_and_leave_the_weights_alone"),
    ),
)
