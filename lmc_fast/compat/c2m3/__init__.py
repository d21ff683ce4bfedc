"""The names of C2M3 (crisostomi/cycle-consistent-model-merging), all in one place.

That is the code of Crisostomi et al., "C2M3: Cycle-Consistent Multi-Model Merging" (NeurIPS 2024), under the MIT
licence; nothing of its text is here. ``from lmc_fast.compat.c2m3 import ...`` in place of
``from ccmm.matching.matcher import ...`` and of its neighbours (``permutation_spec``, ``weight_matching``, ``utils``,
``merger``, ``frank_wolfe_matching``, ``frank_wolfe_sync_matching``); in configurations
``lmc_fast.compat.c2m3.GitRebasinMatcher`` in place of ``ccmm.matching.matcher.GitRebasinMatcher``.

The same: the spec's field names, builders, call forms (``fixed``, ``permutee``) and what is returned: indices where a
model's unit comes from, universes by symbol. Different: the searches are this package's, on the CPU unless told
otherwise; permutations are never soft; mergers change none of the models that they are given; nothing is logged.
Quadratic, alternating-diffusion and synchronised matchers, which call modules that the repository lacks, are not here.
"""

from .functions import (
    LayerIterationOrder,
    apply_permutation_to_statedict,
    create_artificially_permuted_models,
    frank_wolfe_synchronized_matching,
    frank_wolfe_weight_matching,
    get_inverse_permutations,
    get_permuted_param,
    load_permutations,
    perm_indices_to_perm_matrix,
    perm_matrix_to_perm_indices,
    solve_linear_assignment_problem,
    unfactor_permutations,
    weight_matching,
)
from .matchers import (
    DummyMatcher,
    FrankWolfeMatcher,
    FrankWolfeSynchronizedMatcher,
    GitRebasinMatcher,
    Matcher,
    SinkhornMatcher,
)
from .mergers import (
    DummyMerger,
    FrankWolfeSynchronizedMerger,
    FrankWolfeToReferenceMerger,
    GitRebasinMerger,
    GitRebasinPairwiseMerger,
    Merger,
)
from .models import (
    average_models,
    get_all_symbols_combinations,
    get_model,
    l2_norm_models,
    restore_original_weights,
    save_factored_permutations,
    save_permutations,
)
from .specs import (
    AutoPermutationSpecBuilder,
    CNNPermutationSpecBuilder,
    MLPPermutationSpecBuilder,
    PermutationSpec,
    PermutationSpecBuilder,
    ResNet20PermutationSpecBuilder,
    ResNet50PermutationSpecBuilder,
    VGG16PermutationSpecBuilder,
    ViTPermutationSpecBuilder,
    batchnorm_axes,
    conv_axes,
    dense_layer_axes,
    layernorm_axes,
)

__all__ = [
    "AutoPermutationSpecBuilder",
    "CNNPermutationSpecBuilder",
    "DummyMatcher",
    "DummyMerger",
    "FrankWolfeMatcher",
    "FrankWolfeSynchronizedMatcher",
    "FrankWolfeSynchronizedMerger",
    "FrankWolfeToReferenceMerger",
    "GitRebasinMatcher",
    "GitRebasinMerger",
    "GitRebasinPairwiseMerger",
    "LayerIterationOrder",
    "MLPPermutationSpecBuilder",
    "Matcher",
    "Merger",
    "PermutationSpec",
    "PermutationSpecBuilder",
    "ResNet20PermutationSpecBuilder",
    "ResNet50PermutationSpecBuilder",
    "SinkhornMatcher",
    "VGG16PermutationSpecBuilder",
    "ViTPermutationSpecBuilder",
    "apply_permutation_to_statedict",
    "average_models",
    "batchnorm_axes",
    "conv_axes",
    "create_artificially_permuted_models",
    "dense_layer_axes",
    "frank_wolfe_synchronized_matching",
    "frank_wolfe_weight_matching",
    "get_all_symbols_combinations",
    "get_inverse_permutations",
    "get_model",
    "get_permuted_param",
    "l2_norm_models",
    "layernorm_axes",
    "load_permutations",
    "perm_indices_to_perm_matrix",
    "perm_matrix_to_perm_indices",
    "restore_original_weights",
    "save_factored_permutations",
    "save_permutations",
    "solve_linear_assignment_problem",
    "unfactor_permutations",
    "weight_matching",
]
