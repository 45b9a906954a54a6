"""Meta-World's own reward and observation functions, run with cheaper helpers that give the same bits.

Most of a stock env step is not physics but small numpy calls, `scipy.spatial.transform.Rotation`, MuJoCo's named
accessors and Python loops over contacts. `make_evaluator` binds the library's own functions, code object by code
object, to helpers that skip the generality: nothing of the library is changed, no formula of a task is repeated here.
Where a helper meets an argument it was not made for, it hands over to the original.

Types are kept too, not only values: a reward mixes ``float``, ``numpy.float64`` and the action's ``numpy.float32``, and
numpy rounds a product of the first and the last to single precision, but not one of the last two.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import mujoco
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

_SCALARS = (float, np.float64)
_NUMBERS = (float, np.float64, int)
_VALUE_AT_MARGIN = 0.1
_LONG_TAIL_SCALE = float(np.sqrt(1 / _VALUE_AT_MARGIN - 1))
_SMALLEST_MARGIN = 1e-9  # below it squares might overflow, which Python and numpy treat differently
_DENSE = (8,)  # strides of a vector of 64-bit numbers
_ORTHOGONAL = 1e-13  # scipy repairs a matrix that is off by 1e-12


def make_evaluator(simulation: SawyerXYZEnv) -> SawyerXYZEnv:
    """A second face of a simulation: the same attributes, the same functions, cheaper helpers.

    It shares the simulation's attributes (both read and write one dictionary) and its ``data``, of which it sees a
    read-only view. Meant for `evaluate_state`, `_get_pos_objects` and the like; it cannot simulate.
    """
    kind = _evaluator_class(type(simulation))  # type: ignore[arg-type]
    evaluator: SawyerXYZEnv = object.__new__(kind)
    evaluator.__dict__ = simulation.__dict__
    simulation.__dict__["_view_of_data"] = _DataView(simulation.data)
    return evaluator


@cache
def _evaluator_class(simulation_class: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    """A subclass with every method and property of Meta-World's classes bound to the helpers."""
    bases = [base for base in reversed(simulation_class.__mro__) if base.__module__.startswith("metaworld.")]
    members: dict[str, object] = {}
    namespaces = []
    for base in bases:
        namespace = {**vars(sys.modules[base.__module__]), **_helpers()}
        namespaces.append(namespace)
        own = {key: value for key, value in vars(base).items() if not key.startswith("__")}
        members.update({key: _rebind(key, value, namespace) for key, value in own.items()})
    members["data"] = property(lambda self: self._view_of_data)
    members["get_body_com"] = lambda self, name: self._view_of_data.body(name).xpos
    members["touching_object"] = lambda self, geom: self._view_of_data.grips(geom)
    evaluator_class = type(simulation_class.__name__, (simulation_class,), members)
    for namespace in namespaces:  # a task calls its static methods through its class
        namespace[simulation_class.__name__] = evaluator_class
    return evaluator_class


def _rebind(name: str, member: object, namespace: dict[str, object]) -> object:
    if isinstance(member, types.FunctionType):
        return _rebind_function(_undecorated(name, member), namespace)
    if isinstance(member, staticmethod) and isinstance(member.__func__, types.FunctionType):
        return staticmethod(_rebind_function(member.__func__, namespace))
    if isinstance(member, property) and isinstance(member.fget, types.FunctionType):
        return property(_rebind_function(member.fget, namespace))
    return member


def _undecorated(name: str, function: types.FunctionType) -> types.FunctionType:
    """The function inside Meta-World's decorator, which asks at every call whether a task was set."""
    for cell in function.__closure__ or ():
        inside = cell.cell_contents
        if function.__name__ != name and isinstance(inside, types.FunctionType) and inside.__name__ == name:
            return inside
    return function


def _rebind_function(function: types.FunctionType, namespace: dict[str, object]) -> types.FunctionType:
    bound = types.FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__
    )
    bound.__kwdefaults__ = function.__kwdefaults__
    return bound


@cache
def _helpers() -> dict[str, object]:
    """What Meta-World's modules call ``np``, ``reward_utils`` and ``Rotation``."""
    from metaworld.utils import reward_utils

    linear_algebra = types.SimpleNamespace(**{**vars(np.linalg), "norm": norm})
    numpy = types.SimpleNamespace(**{**vars(np), "linalg": linear_algebra, "hstack": hstack})
    rewards = types.SimpleNamespace(**{**vars(reward_utils), "tolerance": _make_tolerance(reward_utils.tolerance)})
    return {"np": numpy, "reward_utils": rewards, "Rotation": RotationMatrix}


def norm(
    x: NDArray[np.float64], ord: float | None = None, axis: int | None = None, keepdims: bool = False
) -> np.floating[Any] | NDArray[np.float64]:
    """`numpy.linalg.norm`; the Euclidean length of a vector without the detours."""
    usual = axis is None and not keepdims and (ord is None or ord == 2)
    if usual and type(x) is np.ndarray and x.strides == _DENSE and x.dtype == np.float64:
        return np.float64(math.sqrt(x.dot(x)))
    stock: np.floating[Any] | NDArray[np.float64] = np.linalg.norm(x, ord, axis, keepdims)
    return stock


def hstack(arrays: tuple[ArrayLike, ...]) -> NDArray[np.float64]:
    """`numpy.hstack`; two numbers or two vectors without the detours."""
    if type(arrays) is tuple and len(arrays) == 2:
        first, second = arrays
        if type(first) is np.float64 and type(second) is np.float64:
            return np.array(arrays)
        if type(first) is np.ndarray and type(second) is np.ndarray and first.ndim == 1 and second.ndim == 1:
            return np.concatenate((first, second))
    return np.hstack(arrays)


def _make_tolerance(original: Callable[..., float]) -> Callable[..., float]:
    """``reward_utils.tolerance`` for one number and the sigmoid that nearly all rewards use."""

    def tolerance(
        x: float,
        bounds: tuple[float, float] = (0.0, 0.0),
        margin: float = 0.0,
        sigmoid: str = "gaussian",
        value_at_margin: float = _VALUE_AT_MARGIN,
    ) -> float:
        lower, upper = bounds
        plain = type(x) in _SCALARS and type(margin) in _NUMBERS and type(lower) in _NUMBERS and type(upper) in _NUMBERS
        usual = sigmoid == "long_tail" and value_at_margin == _VALUE_AT_MARGIN
        if not (plain and usual and lower <= upper and margin > _SMALLEST_MARGIN and abs(x) < 1e9):
            return original(x, bounds, margin, sigmoid, value_at_margin)
        x = float(x)
        if lower <= x <= upper:
            return 1.0
        distance = float((lower - x if x < lower else x - upper) / margin)
        return float(1 / ((distance * _LONG_TAIL_SCALE) ** 2 + 1))

    return tolerance


class RotationMatrix:
    """What Meta-World uses of `scipy.spatial.transform.Rotation`: the quaternion of a rotation matrix."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: NDArray[np.float64]) -> RotationMatrix:
        """Keep a matrix of shape (3, 3)."""
        return cls(matrix)

    def as_quat(self) -> NDArray[np.float64]:
        """The quaternion x, y, z, w, float64 (4,)."""
        rows = self._matrix.tolist()
        if not _is_rotation(*rows):
            from scipy.spatial.transform import Rotation

            stock: NDArray[np.float64] = Rotation.from_matrix(self._matrix).as_quat()
            return stock
        x, y, z, w = _quaternion(rows)
        length = math.sqrt(x * x + y * y + z * z + w * w)  # not `sum`, which compensates rounding
        return np.array([x / length, y / length, z / length, w / length])


def _is_rotation(a: list[float], b: list[float], c: list[float]) -> bool:
    (a0, a1, a2), (b0, b1, b2), (c0, c1, c2) = a, b, c
    return (
        abs(a0 * a0 + a1 * a1 + a2 * a2 - 1) < _ORTHOGONAL
        and abs(b0 * b0 + b1 * b1 + b2 * b2 - 1) < _ORTHOGONAL
        and abs(c0 * c0 + c1 * c1 + c2 * c2 - 1) < _ORTHOGONAL
        and abs(a0 * b0 + a1 * b1 + a2 * b2) < _ORTHOGONAL
        and abs(a0 * c0 + a1 * c1 + a2 * c2) < _ORTHOGONAL
        and abs(b0 * c0 + b1 * c1 + b2 * c2) < _ORTHOGONAL
        and a0 * (b1 * c2 - b2 * c1) + a1 * (b2 * c0 - b0 * c2) + a2 * (b0 * c1 - b1 * c0) > 0
    )


def _quaternion(m: list[list[float]]) -> list[float]:
    """An unnormalised quaternion, in the order of operations of scipy (Markley 2008)."""
    trace = m[0][0] + m[1][1] + m[2][2]
    choices = [m[0][0], m[1][1], m[2][2], trace]
    i = choices.index(max(choices))
    if i == 3:
        return [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1 + trace]
    j, k = (i + 1) % 3, (i + 2) % 3
    quaternion = [0.0, 0.0, 0.0, m[k][j] - m[j][k]]
    quaternion[i] = 1 - trace + 2 * m[i][i]
    quaternion[j] = m[j][i] + m[i][j]
    quaternion[k] = m[k][i] + m[i][k]
    return quaternion


class _DataView:
    """A read-only `mujoco.MjData` that looks a name up once.

    What it keeps are windows into MuJoCo's memory, which follow the simulation. Everything else is passed on.
    """

    def __init__(self, data: mujoco.MjData) -> None:
        self._data = data
        self._named: dict[tuple[str, str], _Named] = {}
        self._pads = (data.geom("leftpad_geom").id, data.geom("rightpad_geom").id)

    def __getattr__(self, key: str) -> object:
        return getattr(self._data, key)

    def body(self, name: str) -> _Named:
        return self._named.get(("body", name)) or self._look_up("body", name)

    def geom(self, name: str) -> _Named:
        return self._named.get(("geom", name)) or self._look_up("geom", name)

    def site(self, name: str) -> _Named:
        return self._named.get(("site", name)) or self._look_up("site", name)

    def joint(self, name: str) -> _Named:
        return self._named.get(("joint", name)) or self._look_up("joint", name)

    def _look_up(self, kind: str, name: str) -> _Named:
        self._named[kind, name] = found = _Named(getattr(self._data, kind)(name))
        return found

    def grips(self, geom: int) -> bool:
        """Whether both finger pads press on a geom, as ``SawyerXYZEnv.touching_object`` says."""
        data = self._data
        if data.ncon == 0:
            return False
        pairs = data.contact.geom.tolist()
        for pad in self._pads:
            force = 0.0
            for contact, pair in enumerate(pairs):
                if pad in pair and geom in pair:
                    force += data.efc_force[data.contact.efc_address[contact]]
            if not force > 0:
                return False
        return True


class _Named:
    """The entry of a name in `mujoco.MjData`, read-only."""

    def __init__(self, accessor: object) -> None:
        self.__dict__["_accessor"] = accessor

    def __getattr__(self, key: str) -> object:
        value = getattr(self._accessor, key)
        if key == "id" or (isinstance(value, np.ndarray) and not value.flags.owndata):
            self.__dict__[key] = value
        return value

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"an evaluation only reads; it tried to set {key!r}")
