"""What a checkpoint's pickle may name and do: tensors, numbers, texts and containers of them."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STORAGES = _words(
    "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexDouble ComplexFloat "
    "QInt8 QInt32 QUInt8 QUInt4x2 QUInt2x4"
)
_CUDA_STORAGES = _words("Double Float Half BFloat16 Long Int Short Char Byte Bool")
_DTYPES = _words(
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool "
    "complex32 complex64 complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu qint8 quint8 qint32"
)
_REBUILDERS = _words(
    "_rebuild_parameter _rebuild_parameter_with_state _rebuild_tensor _rebuild_tensor_v2 "
    "_rebuild_tensor_v3 _rebuild_qtensor _rebuild_sparse_tensor"
)

ALLOWED_GLOBALS: frozenset[str] = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch._tensor._rebuild_from_type_v2",
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "_codecs.encode",
        "builtins.set",
        "builtins.bytearray",
        "builtins.complex",
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"torch.cuda.{name}Storage" for name in _CUDA_STORAGES),
        *(f"torch.{name}" for name in _DTYPES),
        *(f"torch._utils.{name}" for name in _REBUILDERS),
    }
)
"""A subset of what ``torch.load(weights_only=True)`` permits: enough for tensors in containers."""

ALLOWED_OPCODES: frozenset[str] = frozenset(
    _words(
        "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE "
        "BUILD EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT "
        "MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS SHORT_BINSTRING STOP "
        "TUPLE TUPLE1 TUPLE2 TUPLE3 "
    )
)
"""What the restricted unpickler of torch executes; all that ``torch.save`` writes."""
