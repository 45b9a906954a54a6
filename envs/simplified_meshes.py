"""Lighter visual meshes for the fast render profile: the same outlines with a quarter of the triangles.

Where there is no GPU, drawing a robot costs what its triangles cost, and a robosuite or LIBERO scene has 160,000 to
240,000 of them for a picture of 16,000 pixels. Here the large meshes of a model are decimated by quadric error
(``fast-simplification``) up to an error that no picture shows; normals are computed anew, texture coordinates are read
off the original surface.

Meant for a copy of the model that is uploaded to the renderer and thrown away: where geoms stand comes from the scene,
so the model that is simulated is not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int32]

SMALLEST = 256  # triangles; meshes with fewer are left alone
WORTHWHILE = 0.75  # so are meshes that would keep more than this share of their triangles
ERROR = 1 / 96  # of the mesh's own size: below a pixel unless the mesh is larger than a picture of 96 pixels
WELD = ERROR / 4  # closer vertices become one: many meshes are torn along every edge
CREASE_COSINE = 0.8  # faces that meet at more than about 37 degrees keep their edge, as MuJoCo has it

OPPOSED = 0.5  # length of the sum of two unit normals below which a surface folds back on itself

SEAM = 0.02  # of the texture's span: coordinates that differ by more at one place are a seam
CANDIDATES = 24  # old corners that a new corner's texture coordinates are chosen from

_EDGES = [[0, 1], [1, 2], [2, 0]]
_SCALED_ERROR = 1_000.0  # what ERROR becomes while decimating, so that the library's steps towards it are small
_AGGRESSIVENESS = float(
    np.log(_SCALED_ERROR**2 / 1e-9) / np.log(102)
)  # in its last pass, edges cost 1e-9 * 102 ** this

_cache: dict[bytes, Mesh] = {}


@dataclass(frozen=True)
class Mesh:
    """Triangles, laid out as in MuJoCo's model.

    Attributes:
        vertices: float32 (V, 3), metres.
        faces: int32 (F, 3), the vertex at each corner.
        normals: float32 (N, 3), unit vectors.
        face_normals: int32 (F, 3), the normal at each corner.
        coordinates: float32 (T, 2) into the texture; empty without texture.
        face_coordinates: int32 (F, 3), the texture coordinates at each corner; zeros without texture.
    """

    vertices: Floats
    faces: Indices
    normals: Floats
    face_normals: Indices
    coordinates: Floats
    face_coordinates: Indices


def simplify_meshes(model: mujoco.MjModel, shown: Collection[int]) -> None:
    """Write lighter meshes over the large ones that are shown, in place.

    Physics on this model is void afterwards: only its pictures are meant to be used.

    Args:
        model: A copy of the model that is simulated.
        shown: Indices of the meshes that are shown.
    """
    for index in sorted(shown):
        if model.mesh_facenum[index] >= SMALLEST:
            mesh = read_mesh(model, index)
            lighter = simplified(mesh)
            if len(lighter.faces) <= WORTHWHILE * len(mesh.faces):
                write_mesh(model, index, lighter)


def simplified(mesh: Mesh) -> Mesh:
    """The mesh with fewer triangles, nowhere further than about `ERROR` of its size from where it was.

    The result is the same for equal meshes in every process; within one it is remembered.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in (mesh.vertices, mesh.faces, mesh.coordinates, mesh.face_coordinates):  # normals are made anew
        digest.update(f"{array.shape} ".encode() + array.tobytes())
    key = digest.digest()
    if key not in _cache:
        _cache[key] = _simplify(mesh)
    return _cache[key]


def read_mesh(model: mujoco.MjModel, index: int) -> Mesh:
    """A mesh of the model; texture coordinates only if a geom shows them."""
    faces = slice(model.mesh_faceadr[index], model.mesh_faceadr[index] + model.mesh_facenum[index])
    textured = model.mesh_texcoordadr[index] >= 0 and _is_textured(model, index)
    count = int(model.mesh_facenum[index])
    return Mesh(
        vertices=_part(model, "vert", index).copy(),
        faces=model.mesh_face[faces].copy(),
        normals=_part(model, "normal", index).copy(),
        face_normals=model.mesh_facenormal[faces].copy(),
        coordinates=_part(model, "texcoord", index).copy() if textured else np.zeros((0, 2), np.float32),
        face_coordinates=model.mesh_facetexcoord[faces].copy() if textured else np.zeros((count, 3), np.int32),
    )


def write_mesh(model: mujoco.MjModel, index: int, mesh: Mesh) -> bool:
    """Put a mesh in another's place.

    Returns:
        False if the model's arrays have no room for it; the mesh that was there then stays.
    """
    parts = {"vert": mesh.vertices, "normal": mesh.normals}
    if len(mesh.coordinates):
        parts["texcoord"] = mesh.coordinates
    if len(mesh.faces) > model.mesh_facenum[index]:
        return False
    if any(len(part) > getattr(model, f"mesh_{name}num")[index] for name, part in parts.items()):
        return False
    for name, part in parts.items():
        _part(model, name, index)[: len(part)] = part
    faces = slice(model.mesh_faceadr[index], model.mesh_faceadr[index] + len(mesh.faces))
    model.mesh_facenum[index] = len(mesh.faces)
    model.mesh_face[faces] = mesh.faces
    model.mesh_facenormal[faces] = mesh.face_normals
    if model.mesh_texcoordadr[index] >= 0:
        model.mesh_facetexcoord[faces] = mesh.face_coordinates
    return True


def _part(model: mujoco.MjModel, name: str, index: int) -> Floats:
    """A mesh's window into one of the model's arrays."""
    start, count = getattr(model, f"mesh_{name}adr")[index], getattr(model, f"mesh_{name}num")[index]
    window: Floats = getattr(model, f"mesh_{name}")[start : start + count]
    return window


def _is_textured(model: mujoco.MjModel, index: int) -> bool:
    import mujoco

    users = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_dataid == index)
    materials = model.geom_matid[users]
    return bool((model.mat_texid[materials[materials >= 0]] >= 0).any())


def _simplify(mesh: Mesh) -> Mesh:
    size = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    textures = mesh.coordinates[mesh.face_coordinates] if len(mesh.coordinates) else None
    points, welded, origins = _welded(mesh, size * WELD)
    if len(welded) < SMALLEST:  # hardly anything was there but doubles; an odd mesh is better left alone
        return mesh
    borders = _borders(welded, _face_normals(points, welded)[0], None if textures is None else textures[origins])
    points, kept = _decimated(points, welded, borders, size * ERROR)
    single = points.astype(np.float32)
    kept = kept[_face_normals(single, kept)[1] > 0]
    used, numbers = np.unique(kept, return_inverse=True)
    vertices: Floats = single[used]
    faces: Indices = numbers.reshape(-1, 3).astype(np.int32)
    normals, face_normals = _indexed(_corner_normals(vertices, faces))
    coordinates, face_coordinates = mesh.coordinates, np.zeros_like(faces)
    if textures is not None:
        coordinates, face_coordinates = _indexed(_transferred(mesh, textures, vertices, faces))
    return Mesh(vertices, faces, normals, face_normals, coordinates, face_coordinates)


def _indexed(corners: Floats) -> tuple[Floats, Indices]:
    """Different rows (N, K) of values at corners (F, 3, K), and which of them each corner has, (F, 3)."""
    rows, numbers = np.unique(corners.reshape(-1, corners.shape[-1]), axis=0, return_inverse=True)
    return rows, numbers.reshape(-1, 3).astype(np.int32)


def _welded(mesh: Mesh, distance: float) -> tuple[Doubles, Indices, NDArray[np.int64]]:
    """Points and faces with one point in each cell of a grid, no face twice or without area; what each face was."""
    _, first, numbers = np.unique(_cells(mesh.vertices, distance), return_index=True, return_inverse=True)
    points = mesh.vertices[first].astype(np.float64)
    faces = numbers.reshape(-1)[mesh.faces].astype(np.int32)
    origins = np.flatnonzero(_face_normals(points, faces)[1] > 0)
    origins = origins[_distinct(faces[origins])]
    return points, faces[origins], origins


def _cells(points: Floats, distance: float) -> NDArray[np.int64]:
    """A number for the cell of a grid that each point lies in, (N,)."""
    steps = np.round((points - points.min(axis=0)) / max(distance, np.finfo(np.float32).tiny)).astype(np.int64)
    cells: NDArray[np.int64] = (steps[:, 0] << 20) + (steps[:, 1] << 10) + steps[:, 2]  # each below 1 / WELD = 384
    return cells


def _distinct(faces: Indices) -> NDArray[np.int64]:
    """Which faces have three different vertices, each once; the two sides of a sheet are two faces."""
    proper = np.flatnonzero(_has_area(faces))
    turns = (faces[proper].argmin(axis=1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(faces[proper], turns, axis=1).astype(np.int64)
    count = int(faces.max(initial=0)) + 1
    _, first = np.unique((turned[:, 0] * count + turned[:, 1]) * count + turned[:, 2], return_index=True)
    result: NDArray[np.int64] = proper[np.sort(first)]
    return result


def _has_area(faces: NDArray[np.integer]) -> NDArray[np.bool_]:
    first, second, third = faces.T
    result: NDArray[np.bool_] = (first != second) & (second != third) & (third != first)
    return result


def _decimated(
    points: Doubles, faces: Indices, borders: tuple[Indices, Indices], error: float
) -> tuple[Doubles, Indices]:
    """Collapse edges as long as that moves no surface, and no border, by more than ``error``.

    The library lets open borders wander, which eats holes into meshes made of patches. So a fin stands on every border
    edge, at right angles to its face: leaving the border would move the fin.
    """
    import fast_simplification  # type: ignore[import-untyped]

    scale = _SCALED_ERROR / error
    edges, owners = borders
    lengths = np.linalg.norm(points[edges[:, 1]] - points[edges[:, 0]], axis=1, keepdims=True)
    tips = points[edges].mean(axis=1) + _face_normals(points, faces)[0][owners] * lengths
    tip_numbers = np.arange(len(points), len(points) + len(tips), dtype=np.int32)
    everything = np.vstack([faces, np.column_stack([edges, tip_numbers])]).astype(np.int32)
    found, _, collapses = fast_simplification.simplify(
        np.vstack([points, tips]) * scale, everything, target_count=1, agg=_AGGRESSIVENESS, return_collapses=True
    )
    survivor = np.arange(len(points) + len(tips))
    for kept, gone in reversed(collapses.tolist()):
        survivor[gone] = survivor[kept]
    numbers = np.full(len(survivor), -1, dtype=np.int32)
    left_over = survivor[everything]
    alive = np.unique(left_over[_has_area(left_over)])
    if len(alive) != len(found):
        raise RuntimeError(f"fast-simplification gave {len(found)} vertices, its collapses {len(alive)}")
    numbers[alive] = np.arange(len(alive))
    kept = numbers[survivor[faces]]
    return found / scale, kept[_distinct(kept)]


def _borders(faces: Indices, normals: Doubles, textures: Floats | None) -> tuple[Indices, Indices]:
    """Edges (E, 2) where something ends, with the face that each belongs to (E,).

    That is where one face is alone; where a face meets its own back, at the rim of a thin sheet; and at the seams of a
    texture, given by its coordinates (F, 3, 2).
    """
    edges = faces[:, _EDGES].reshape(-1, 2)
    owners = np.repeat(np.arange(len(faces), dtype=np.int32), 3)
    low, high = edges.min(axis=1).astype(np.int64), edges.max(axis=1)
    names = low * (int(faces.max(initial=0)) + 1) + high
    _, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
    directions = np.column_stack([np.bincount(numbers, normals[owners, axis]) for axis in range(3)])
    ends = (counts == 1) | ((counts == 2) & (np.linalg.norm(directions, axis=1) < OPPOSED))
    if textures is not None:
        sides = textures[:, _EDGES].reshape(-1, 2, 2)
        backwards = edges[:, 0] > edges[:, 1]
        sides[backwards] = sides[backwards, ::-1]
        rows = sides.reshape(-1, 4)[np.argsort(numbers, kind="stable")]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        gaps = np.maximum.reduceat(rows, starts) - np.minimum.reduceat(rows, starts)
        ends |= (gaps.reshape(-1, 2, 2) > SEAM * np.ptp(textures, axis=(0, 1))).any(axis=(1, 2))
    return edges[ends[numbers]], owners[ends[numbers]]


def _face_normals(vertices: NDArray[np.floating], faces: Indices) -> tuple[Doubles, Doubles]:
    """Unit normals (F, 3) and twice the areas (F,)."""
    corners = vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    return normals / np.maximum(areas, np.finfo(np.float64).tiny)[:, None], areas


def _corner_normals(vertices: Floats, faces: Indices) -> Floats:
    """Normals (F, 3, 3): at each corner the mean, by area, of the faces around it that meet its own face smoothly."""
    normals, areas = _face_normals(vertices, faces)
    corners = faces.reshape(-1)
    order = np.argsort(corners, kind="stable")
    counts = np.bincount(corners, minlength=len(vertices))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    partners_of = counts[corners]  # corner by corner, how many faces are around its vertex
    ends = np.cumsum(partners_of)
    within = np.arange(ends[-1]) - np.repeat(ends - partners_of, partners_of)
    partner = order[np.repeat(starts[corners], partners_of) + within] // 3
    own = np.repeat(np.arange(len(corners)) // 3, partners_of)
    smooth = np.einsum("ij,ij->i", normals[own], normals[partner]) > CREASE_COSINE
    weighted = normals[partner] * (areas[partner] * smooth)[:, None]
    sums = np.add.reduceat(weighted, ends - partners_of, axis=0)
    result: Floats = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).reshape(-1, 3, 3).astype(np.float32)
    return result


def _transferred(mesh: Mesh, textures: Floats, vertices: Floats, faces: Indices) -> Floats:
    """Texture coordinates (F, 3, 2) for new faces, from the nearest corners of the old ones.

    At a seam a place has several coordinates. A corner takes those that are most like the old face's under the middle
    of its new face; taking both sides into one triangle would smear the texture.
    """
    size = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    old_corners, new_corners = mesh.vertices[mesh.faces], vertices[faces]
    old_normals, new_normals = _face_normals(mesh.vertices, mesh.faces)[0], _face_normals(vertices, faces)[0]
    reach = size * 0.1  # a face that looks elsewhere counts as this far away
    old = np.hstack([old_corners.mean(axis=1), old_normals * reach])
    below = _nearest(old, np.hstack([new_corners.mean(axis=1), new_normals * reach]), 1)[1][:, 0]
    expected = textures[below].mean(axis=1).repeat(3, axis=0)
    count = min(CANDIDATES, textures.shape[0] * 3)
    distances, candidates = _nearest(old_corners.reshape(-1, 3), new_corners.reshape(-1, 3), count)
    agreement = np.einsum("ijk,ik->ij", old_normals[candidates // 3], new_normals.repeat(3, axis=0))
    distances[agreement < 0] = size  # the other side of a thin wall
    found = textures.reshape(-1, 2)[candidates]
    unlike = np.linalg.norm(found - expected[:, None], axis=2)
    unlike[distances > distances.min(axis=1, keepdims=True) + 2 * WELD * size] = np.inf
    result: Floats = found[np.arange(len(found)), unlike.argmin(axis=1)].reshape(-1, 3, 2)
    return result


def _nearest(known: NDArray[np.floating], asked: NDArray[np.floating], count: int) -> tuple[Doubles, NDArray[np.int64]]:
    """Distances to the ``count`` nearest of the known points, and which they are; (N, count) each."""
    from scipy.spatial import cKDTree

    tree: Any = cKDTree(known)  # its stubs know other shapes of arrays than numpy's
    distances, numbers = tree.query(asked, k=[*range(1, count + 1)])
    return distances, numbers
