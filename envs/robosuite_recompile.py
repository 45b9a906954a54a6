"""A model that differs from a compiled one in a few numbers, without compiling its meshes and textures again.

Some of robosuite's tasks draw sizes or places while they load their model, so each hard reset compiles another model.
Nearly all of that time goes into meshes and textures, which do not change. Here both the old and the new description
are compiled without them, which takes milliseconds; the rows in which the two differ are copied into the full model,
and MuJoCo derives its constants anew. The result equals the full compilation, byte for byte (there is a test).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    import mujoco

_KINDS = {"body": "nbody", "geom": "ngeom", "site": "nsite", "jnt": "njnt"}
_OBJECT = {"body": "mjOBJ_BODY", "geom": "mjOBJ_GEOM", "site": "mjOBJ_SITE", "jnt": "mjOBJ_JOINT"}
_HEAVY = ("mesh", "texture", "material", "hfield", "skin")


class CannotPatch(Exception):  # noqa: N818 - not an error: the caller compiles instead
    """The difference is not one of numbers."""


def skeleton(xml: str) -> mujoco.MjModel:
    """A model of the same bodies without meshes, textures and materials."""
    import mujoco

    root = ElementTree.fromstring(xml)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in _HEAVY or (child.tag == "geom" and child.get("mesh") is not None):
                parent.remove(child)
            else:
                child.attrib.pop("material", None)
    for body in root.iter("body"):
        if body.find("inertial") is None and body.find("geom") is None and body.find("joint") is not None:
            ElementTree.SubElement(body, "inertial", {"pos": "0 0 0", "mass": "1", "diaginertia": "1 1 1"})
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))


def patch(model: mujoco.MjModel, before: mujoco.MjModel, after: mujoco.MjModel) -> None:
    """Make a full model what compiling its new description would give.

    Args:
        model: The full model of the old description; changed in place.
        before: Skeleton of the old description.
        after: Skeleton of the new one.

    Raises:
        CannotPatch: The descriptions differ in more than numbers of bodies, geoms, sites and joints. The model may have
            been changed in part.
    """
    import mujoco

    changed: set[int] = set()
    for kind, count in _KINDS.items():
        if getattr(before, count) != getattr(after, count):
            raise CannotPatch(f"another number of {kind}s")
        for name in _numbers(before, kind, count):
            old, new = getattr(before, name), getattr(after, name)
            rows = np.unique(np.nonzero(old != new)[0])
            for row in rows:
                element = _same_element(before, after, model, kind, int(row))
                getattr(model, name)[element] = new[row]
                if kind in ("body", "geom"):
                    changed.add(int(row if kind == "body" else before.geom_bodyid[row]))
    for body in changed:
        _copy_hierarchy(before, after, model, body)
    _copy_rest_positions(before, after, model)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _numbers(model: mujoco.MjModel, kind: str, count: str) -> list[str]:
    """Fields with one row of floating-point numbers per element, without those that MuJoCo derives."""
    derived = ("invweight0", "subtreemass")
    names = [name for name in dir(model) if name.startswith(f"{kind}_") and not name.endswith(derived)]
    fields = {name: getattr(model, name) for name in names}
    return [
        name
        for name, value in fields.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape[:1] == (getattr(model, count),)
    ]


def _same_element(before: mujoco.MjModel, after: mujoco.MjModel, model: mujoco.MjModel, kind: str, row: int) -> int:
    import mujoco

    which = getattr(mujoco.mjtObj, _OBJECT[kind])
    name = mujoco.mj_id2name(before, which, row)
    if name is None or mujoco.mj_id2name(after, which, row) != name:
        raise CannotPatch(f"a {kind} without a name, or with another")
    element: int = mujoco.mj_name2id(model, which, name)
    if element < 0:
        raise CannotPatch(f"no {kind} {name} in the full model")
    return element


def _copy_hierarchy(before: mujoco.MjModel, after: mujoco.MjModel, model: mujoco.MjModel, row: int) -> None:
    """The bounding boxes of a changed body, which must be arranged as before."""
    body = _same_element(before, after, model, "body", row)
    count = after.body_bvhnum[row]
    if not count == before.body_bvhnum[row] == model.body_bvhnum[body]:
        raise CannotPatch("another hierarchy of bounding boxes")
    old, new, full = (each.body_bvhadr[at] for each, at in ((before, row), (after, row), (model, body)))
    if not np.array_equal(before.bvh_nodeid[old : old + count], after.bvh_nodeid[new : new + count]):
        raise CannotPatch("another hierarchy of bounding boxes")
    model.bvh_aabb[full : full + count] = after.bvh_aabb[new : new + count]


def _copy_rest_positions(before: mujoco.MjModel, after: mujoco.MjModel, model: mujoco.MjModel) -> None:
    for name in ("qpos0", "qpos_spring"):
        if not np.array_equal(getattr(before, name), getattr(after, name)):
            if model.nq != after.nq:
                raise CannotPatch("other joints")
            getattr(model, name)[:] = getattr(after, name)
