"""What the coverage table leaves out, and why: public functions and primitives of JAX."""

__all__ = ["ADDED", "EXCLUDED", "EXCLUDED_PRIMITIVES", "REMOVED"]

# Functions that only some of the supported JAX versions have.
ADDED = {
    "jax.lax.log2": (0, 12),
    "jax.lax.one_minus_square": (0, 12),
    "jax.lax.polynomial": (0, 12),
    "jax.lax.psum_scatter_start": (0, 12),
    "jax.numpy.minmax": (0, 12),
    "jax.numpy.top_k": (0, 12),
    "jax.scipy.special.erfcinv": (0, 12),
}
REMOVED = {
    "jax.lax.ConvGeneralDilatedDimensionNumbers": (0, 12),
    "jax.lax.PrecisionLike": (0, 12),
    "jax.lax.precv": (0, 12),
    "jax.lax.psend": (0, 12),
}

# Reason -> namespace -> names.
_REASONS: dict[str, dict[str, str]] = {
    "result is an index, an integer or a bit pattern": {
        "jax.lax": "argmax argmin clz mulhi population_count",
        "jax.lax.linalg": "lu_pivots_to_permutation",
        "jax.numpy": "argmax argmin argpartition argsort argwhere bitwise_count count_nonzero "
        "digitize flatnonzero gcd lcm lexsort nanargmax nanargmin nonzero packbits "
        "ravel_multi_index searchsorted unpackbits unravel_index",
        "jax.numpy.linalg": "matrix_rank",
    },
    "operands are integers or truth values": {
        "jax.lax": "bitwise_and bitwise_not bitwise_or bitwise_xor reduce_and reduce_or reduce_xor "
        "shift_left shift_right_arithmetic shift_right_logical",
        "jax.numpy": "bitwise_and bitwise_invert bitwise_left_shift bitwise_not bitwise_or "
        "bitwise_right_shift bitwise_xor invert ix_ left_shift right_shift",
        "jax.nn": "one_hot",
    },
    "predicate: result is a truth value": {
        "jax.lax": "eq ge gt is_finite le lt ne",
        "jax.numpy": "all allclose any array_equal array_equiv equal greater greater_equal isclose "
        "iscomplex iscomplexobj isfinite isin isinf isnan isneginf isposinf isreal isrealobj "
        "isscalar less less_equal logical_and logical_not logical_or logical_xor not_equal signbit",
    },
    "creates an array from static arguments": {
        "jax.lax": "broadcasted_iota empty iota",
        "jax.numpy": "arange bartlett blackman diag_indices diag_indices_from empty eye hamming "
        "hanning identity indices mask_indices ones tri tril_indices tril_indices_from "
        "triu_indices triu_indices_from zeros",
        "jax.numpy.fft": "fftfreq rfftfreq",
        "jax.scipy.special": "bernoulli",
    },
    "result is uninitialised": {"jax.numpy": "empty_like"},
    "answers about types and shapes, or prints": {
        "jax.lax": "broadcast_shapes conv_dimension_numbers conv_general_permutations "
        "conv_general_shape_tuple conv_shape_tuple conv_transpose_shape_tuple dtype "
        "padtype_to_pads reduce_window_shape_tuple shape_as_value",
        "jax.numpy": "array_repr array_str broadcast_shapes can_cast einsum_path get_printoptions "
        "isdtype issubdtype iterable ndim printoptions promote_types result_type "
        "set_printoptions shape size",
    },
    "type alias": {
        "jax.lax": "ConvGeneralDilatedDimensionNumbers DotDimensionNumbers PrecisionLike",
    },
    "reads or writes a file or a foreign buffer": {
        "jax.numpy": "from_dlpack frombuffer fromfile fromiter fromstring load save savez",
    },
    "the shape of the result depends on the values": {"jax.numpy": "trim_zeros"},
    "random bits": {"jax.lax": "rng_bit_generator rng_uniform"},
    "works on effect tokens": {"jax.lax": "after_all create_token"},
    "needs a named axis of several devices": {
        "jax.lax": "axis_index axis_size pcast precv psend psum_scatter_start ragged_all_to_all",
    },
    "JAX cannot batch it, so neither jacrev nor jacfwd can use it": {"jax.lax": "pbroadcast"},
    "works on 4-bit and 8-bit floats, on GPUs that have them": {
        "jax.nn": "get_scaled_dot_general_config scaled_dot_general scaled_matmul",
    },
}

EXCLUDED: dict[str, str] = {
    f"{namespace}.{name}": reason
    for reason, namespaces in _REASONS.items()
    for namespace, names in namespaces.items()
    for name in names.split()
}

# Primitives that JAX gives a derivative and that no row reaches.
_PRIMITIVE_REASONS: dict[str, str] = {
    "operands or results are integers, keys or truth values": (
        "eq_to from_edtype le_to lt_to mulhi random_fold_in random_split random_unwrap random_wrap "
        "shift_left to_edtype xor"
    ),
    "changes a mutable value; JAX differentiates the pure equations that replace it": (
        "addupdate accum_grad_in_ref box_get box_set empty_ref free_ref log_extend log_read "
        "new_box new_log run_state"
    ),
    "calls foreign code or reports to the host; its derivative rule only raises": (
        "ffi_call inspect_sharding io_callback pure_callback"
    ),
    "says how several devices or memories hold an array": (
        "layout_constraint relayout reshard with_memory_space_constraint"
    ),
    "collective over a named axis, akin to those of the shard_map rows": (
        "all_gather_invariant all_gather_reduced pbroadcast pbroadcast_dynamic preduced "
        "ragged_all_to_all reduced_vary_cast reduced_vary_cast_p unreduced_psum "
        "unreduced_reduce_scatter vary_unreduced_cast vary_unreduced_cast_p"
    ),
    "has no public function of its own": "call_hi_primitive eval_jaxpr tie",
    "experimental part of jax.custom_vjp that JAX differentiates only once": "remat_opt",
    "leaves no equation when a function is traced": "stage",
    "JAX cannot batch its derivative, so neither jacrev nor jacfwd can use it": "reduce_window",
    "XLA takes half a minute to compile its sampling loop": "random_gamma",
}

EXCLUDED_PRIMITIVES: dict[str, str] = {
    name: reason for reason, names in _PRIMITIVE_REASONS.items() for name in names.split()
}
