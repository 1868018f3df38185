"""What torch's functions do, as far as reading an anatomy needs it, by `plain_name`."""

from __future__ import annotations

#: Move or retype data, whole.
MOVEMENT = frozenset(
    "view reshape permute transpose swapaxes movedim flatten unflatten squeeze unsqueeze "
    "contiguous expand expand_as to float half double bfloat16 type type_as clone detach roll "
    "pad flip repeat t view_as reshape_as alias rearrange moveaxis fold unfold pixel_shuffle "
    "pixel_unshuffle".split()
) | {"__get__"}
#: Take a part of the data.
SELECTION = frozenset(
    "__getitem__ chunk split tensor_split unbind narrow select index_select gather".split()
)
POOLING = frozenset(
    "avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d interpolate "
    "upsample mean amax blur_pool avg_pool1d boolean_dispatch max_pool2d_with_indices "
    "avg_pool3d max_pool3d adaptive_avg_pool3d adaptive_avg_pool1d".split()
)
CONVOLUTION = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "_conv_forward",
        "convolution",
        "conv_transpose2d",
        "conv_transpose1d",
    ]
)
LINEAR = frozenset(["linear", "addmm", "matmul", "mm", "bmm", "einsum", "baddbmm", "tensordot"])
SCALING = frozenset(["mul", "truediv", "div", "add", "sub", "addcmul"])
ATTENTION = frozenset(
    ["softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "log_softmax"]
)
NORMALISATION = frozenset(
    "layer_norm batch_norm group_norm rms_norm instance_norm local_response_norm normalize "
    "rsqrt var_mean native_layer_norm native_group_norm fused_rms_norm".split()
)
ACTIVATION = frozenset(
    "relu relu6 gelu silu hardswish hardsigmoid hardtanh sigmoid tanh mish elu celu selu "
    "leaky_relu prelu softplus glu rrelu hard_swish hard_sigmoid softsign logsigmoid clamp "
    "max min star exp square quick_gelu".split()
)
FOURIER = frozenset("fft fft2 ifft ifft2 rfft2 irfft2 fftn rfft irfft rfftn irfftn".split())

#: A skip may pass through these and still be a skip.
SKIP = (
    MOVEMENT | SELECTION | POOLING | CONVOLUTION | SCALING | NORMALISATION | ACTIVATION | {"linear"}
)
#: A skip that only does these is still the stream itself.
FREE = MOVEMENT | SELECTION | SCALING
LAYER = CONVOLUTION | LINEAR | ATTENTION | {"opaque"}
#: Without one of these a branch does no work: rotary embeddings, response normalisation.
WORK = POOLING | CONVOLUTION | LINEAR | ATTENTION | FOURIER | {"opaque"}
NONLINEAR = ACTIVATION | ATTENTION | {
    "layer_norm", "group_norm", "rms_norm", "instance_norm", "normalize", "rsqrt", "var_mean",
    "max_pool2d", "boolean_dispatch", "opaque",
}  # fmt: skip
