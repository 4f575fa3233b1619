"""The devices that exports are made for, as plain data: what each runs, what it runs well, and what it draws.

Sources of the figures stand beside them. Light: neither JAX nor TensorFlow nor LiteRT is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MIB = 2**20
PRECISIONS = ("fp32", "fp16", "dynamic_range", "int8")  # that files are written in


class Power(NamedTuple):
    """What a device draws while it computes, where nothing was measured."""

    watts: float
    source: str


class Space(NamedTuple):
    """What a space of networks is restricted to, so that all of it runs well; empty: no restriction."""

    kernels: tuple[int, ...] = ()
    activations: tuple[str, ...] = ()  # the first takes the place of one that is not among them
    squeeze_excite: bool = True


class Target(NamedTuple):
    """One kind of device."""

    name: str
    device: str  # in words
    runtime: str
    precisions: tuple[str, ...]  # written by default; the last is the one to run
    one_file: bool  # whether the host chooses between signatures of one file; else each net has its own file
    onnx: bool  # whether ONNX files are written too
    ops: dict[str, int] | None  # the newest version of each operator that it runs; None: `LITERT_OPS`
    memory_bytes: int | None  # that the weights of an export must fit in together
    space: Space
    power: Power | None  # None: there is no figure for all of them, so energy needs RAPL or a log
    depthwise: str = "conv"  # the form, of `networks.blocks`, that its files compute depthwise convolutions in
    onnx_opset: int | None = None  # the newest that its runtime reads
    onnx_ops: frozenset[str] | None = None  # the operators that its runtime reads of ONNX files; None: not held to any
    advice: Space | None = None  # the kernels and activations that lint tells to use; None: those of `space`
    only: tuple[str, ...] = ()  # the precisions that it runs; empty: all
    board: str | None = None  # how it calls itself in its device tree, where all of the target do


EVERYTHING = Space()

# LiteRT with XNNPACK takes three times as long for a 7x7 depthwise convolution as for a 5x5 one (27 times, in int8 110 times, if
# it is not computed in bands), and in int8 six times as long for a net with hard-swish as with ReLU6.
LITERT_SPACE = Space(kernels=(3, 5), activations=("relu6", "relu"))

# What the Edge TPU compiler 16 (2021) maps, from "TensorFlow models on the Edge TPU" (coral.ai/docs/edgetpu/models-intro), with
# the newest version of each operator that it knows: in general the one that brought int8. A newer one stops it with "Didn't find
# op for builtin opcode ... version ...". HARD_SWISH is not among them (google-coral/edgetpu, issues 272 and 353).
EDGETPU_OPS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "EXPAND_DIMS": 1,
    "FULLY_CONNECTED": 5,
    "L2_NORMALIZATION": 2,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "PACK": 2,
    "PAD": 2,
    "PRELU": 1,
    "QUANTIZE": 2,
    "REDUCE_MAX": 2,
    "REDUCE_MIN": 2,
    "RELU": 2,
    "RELU6": 2,
    "RELU_N1_TO_1": 1,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 3,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "RSQRT": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SPACE_TO_DEPTH": 2,
    "SPLIT": 2,
    "SQUARED_DIFFERENCE": 2,
    "SQUEEZE": 1,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
    "TRANSPOSE": 2,
    "TRANSPOSE_CONV": 3,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3,
}

# The newest version of each operator that LiteRT 2.1.0 has a kernel for, found by asking it. It is the oldest that an export
# folder's requirements allow: what passes here runs with every newer one.
_LITERT = {
    1: "ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS "
    "CONV_3D CONV_3D_TRANSPOSE COS CUMSUM DENSIFY DILATE ELU EMBEDDING_LOOKUP_SPARSE EXPAND_DIMS FLOOR "
    "HARD_SWISH HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE IF IMAG L2_POOL_2D "
    "LOCAL_RESPONSE_NORMALIZATION LOGICAL_AND LOGICAL_NOT LOGICAL_OR LSH_PROJECTION MATRIX_DIAG MATRIX_SET_DIAG "
    "MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 ONE_HOT POW PRELU RANDOM_STANDARD_NORMAL "
    "RANDOM_UNIFORM RANK READ_VARIABLE REAL REDUCE_ALL REDUCE_ANY REDUCE_WINDOW RELU_0_TO_1 RELU_N1_TO_1 "
    "RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT ROUND SCATTER_ND SEGMENT_SUM SHAPE SIN SKIP_GRAM SQUARE "
    "STABLEHLO_ADD STABLEHLO_AND STABLEHLO_CASE STABLEHLO_COMPOSITE STABLEHLO_GATHER STABLEHLO_MAXIMUM "
    "STABLEHLO_MINIMUM STABLEHLO_MULTIPLY STABLEHLO_PAD STABLEHLO_REDUCE_WINDOW STABLEHLO_RNG_BIT_GENERATOR "
    "STABLEHLO_SCATTER STABLEHLO_SHIFT_LEFT UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN "
    "UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM VAR_HANDLE WHILE ZEROS_LIKE",
    2: "DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GELU GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL LOG "
    "LOG_SOFTMAX RANGE REDUCE_PROD SELECT_V2 SIGN SPACE_TO_DEPTH SPLIT_V SQRT SQUARED_DIFFERENCE SQUEEZE SUM "
    "WHERE",
    3: "ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO "
    "FLOOR_DIV GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD REDUCE_MAX REDUCE_MIN RELU RELU6 "
    "REVERSE_V2 RNN RSQRT SOFTMAX SPARSE_TO_DENSE TANH TILE TOPK_V2 UNIDIRECTIONAL_SEQUENCE_RNN",
    4: "BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION DYNAMIC_UPDATE_SLICE EMBEDDING_LOOKUP FILL LSTM MAXIMUM "
    "MINIMUM NOT_EQUAL PACK QUANTIZE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SPACE_TO_BATCH_ND SPLIT "
    "SVDF UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK",
    5: "ABS ADD EQUAL GATHER_ND PAD PADV2 SUB TRANSPOSE_CONV",
    7: "DEPTHWISE_CONV_2D DEQUANTIZE GATHER MUL SLICE TRANSPOSE",
    8: "CAST CONV_2D STRIDED_SLICE",
    14: "FULLY_CONNECTED",
}
LITERT_OPS = {name: version for version, names in _LITERT.items() for name in names.split()}
# An app takes LiteRT 1.4 from Maven (docs/boards/android.md): what differs there, found by asking the Python package of 1.4.0.
ANDROID_OPS = LITERT_OPS | {
    "CAST": 7,
    "DEQUANTIZE": 6,
    "EQUAL": 4,
    "FULLY_CONNECTED": 13,
    "NOT_EQUAL": 3,
    "PAD": 4,
    "PADV2": 4,
    "QUANTIZE": 3,
    "SLICE": 6,
    "SQRT": 1,
}

# What TensorRT 8.2 reads of ONNX up to opset 13: the operators that onnx-tensorrt's release 8.2-GA has importers for. They are
# those that its docs/operators.md calls supported, and Reciprocal, which its own tests run and the page grants since 8.4.
_TENSORRT = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat "
    "Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal "
    "Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If ImageScaler InstanceNormalization IsNaN LRN LSTM LeakyRelu "
    "Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not "
    "Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
    "ReverseSequence Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice "
    "Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose "
    "Unsqueeze Upsample Where"
)
TENSORRT_OPS = frozenset(_TENSORRT.split())

_ALL = (
    Target(
        name="edgetpu",
        device="Coral Edge TPU (USB Accelerator, M.2 and PCIe modules, Dev Board)",
        runtime="LiteRT with the Edge TPU delegate, files through edgetpu_compiler 16",
        precisions=("int8",),
        only=("int8",),
        one_file=False,
        onnx=False,
        ops=EDGETPU_OPS,
        memory_bytes=8 * MIB,  # the on-chip cache of parameters, shared by nets that are compiled together
        space=Space(kernels=(3, 5), activations=("relu6",), squeeze_excite=False),
        power=Power(2.0, "Coral M.2 Accelerator data sheet: an Edge TPU at 4 TOPS uses 2 W (the host comes on top)"),
    ),
    Target(
        name="pi4",
        device="Raspberry Pi 4 Model B, 64-bit OS",
        runtime="LiteRT with XNNPACK",
        precisions=("fp32", "int8"),
        one_file=True,
        onnx=False,
        ops=None,
        memory_bytes=512 * MIB,  # half of the smallest board's
        space=LITERT_SPACE,
        depthwise="bands",
        board="Raspberry Pi 4",
        power=Power(3.06, "Raspberry Pi documentation, Power supply: bare board, active, 600 mA at 5.1 V"),
    ),
    Target(
        name="pi5",
        device="Raspberry Pi 5, 64-bit OS",
        runtime="LiteRT with XNNPACK",
        precisions=("fp32", "int8"),
        one_file=True,
        onnx=False,
        ops=None,
        memory_bytes=512 * MIB,  # half of the smallest board's
        space=LITERT_SPACE,
        depthwise="bands",
        board="Raspberry Pi 5",
        power=Power(4.08, "Raspberry Pi documentation, Power supply: bare board, active, 800 mA at 5.1 V"),
    ),
    Target(
        name="jetson_nano",
        device="NVIDIA Jetson Nano, JetPack 4.6",
        runtime="TensorRT 8.2 from ONNX files",
        # Its GPU (compute capability 5.3) has FP32 and FP16 arithmetic, no INT8: the int8 file serves newer Jetsons and the CPU.
        precisions=("int8", "fp32"),
        one_file=True,
        onnx=True,
        ops=None,
        memory_bytes=1024 * MIB,  # half of the smallest kit's, which CPU and GPU share
        space=EVERYTHING,
        power=Power(10.0, "Jetson Linux Developer Guide, Power Management: budget of the Nano's mode 0 (MAXN)"),
        onnx_opset=13,
        onnx_ops=TENSORRT_OPS,
        board="Jetson Nano",
    ),
    Target(
        name="android",
        device="Android phone, arm64",
        runtime="LiteRT with XNNPACK",
        precisions=("fp32", "int8"),
        one_file=True,
        onnx=False,
        ops=ANDROID_OPS,
        memory_bytes=512 * MIB,  # a quarter of the 2 GiB that Android's compatibility definition asks of a phone
        space=LITERT_SPACE,
        depthwise="bands",
        power=None,
    ),
    Target(
        name="x86",
        device="x86-64 computer",
        runtime="LiteRT with XNNPACK",
        precisions=("fp32", "int8"),
        one_file=True,
        onnx=False,
        ops=None,
        memory_bytes=None,
        space=EVERYTHING,
        advice=LITERT_SPACE,
        depthwise="bands",
        power=None,
    ),
)
TARGETS = {target.name: target for target in _ALL}


def target(name: str) -> Target:
    """The target called `name`. Raises ValueError for an unknown one."""
    if not isinstance(name, str) or name not in TARGETS:
        raise ValueError(f"target is {name!r}, choose from {list(TARGETS)}")
    return TARGETS[name]


def check_precisions(what: str, precisions: Sequence[str], name: str) -> None:
    """Raises ValueError for a precision that is none, or that the target `name` does not run; `what` says where it was given."""
    if not set(precisions) <= set(PRECISIONS):
        raise ValueError(f"{what} is {tuple(precisions)!r}, choose from {PRECISIONS}")
    only = target(name).only
    if only and not set(precisions) <= set(only):
        raise ValueError(
            f"{what} is {tuple(precisions)!r}, but target {name} runs nothing but {', '.join(only)}: give {only!r}"
        )


def of_board(board: str | None) -> str | None:
    """The name of the target whose board calls itself so; None where that is no target's."""
    return next((name for name, known in TARGETS.items() if known.board and known.board in (board or "")), None)
